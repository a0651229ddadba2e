"""What the harnesses share: the recipe they run, what a finished run has to equal, their rows."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from keras_lenet import artifacts, pipeline

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "pipelines" / "smoke.toml"
SETTINGS = ("train.epochs=4", "quantize.epochs=2")
STOPPED = re.compile(
    r"keras-lenet: stopped by SIG(INT|TERM) .*; the same command goes on from there"
)


def command(runs: Path, *settings: str) -> list[str]:
    """A run of the smoke recipe on scikit-learn's digits."""
    overrides = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return [
        sys.executable,
        "-m",
        "keras_lenet",
        "run",
        str(RECIPE),
        "--runs",
        str(runs),
        *overrides,
    ]


def environment(threads: int = 1) -> dict[str, str]:
    """This process', with the package of this checkout and one thread a TensorFlow op."""
    number = str(threads)
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "TF_NUM_INTRAOP_THREADS": number,
        "TF_NUM_INTEROP_THREADS": number,
    }


def contents(run: Path) -> dict[str, str]:
    """SHA-256 of everything that a run leaves and that its recipe alone decides.

    Left out are times: the records, those in metrics.json, and the page that shows them; and the
    SavedModel's graph, whose functions TensorFlow numbers as it likes. Its weights are compared.
    """
    found = {}
    for stage in pipeline.STAGES:
        for name, digest in artifacts.hash_files(run / stage).items():
            found[f"{stage}/{name}"] = digest
    for name in ("saved_model.pb", "fingerprint.pb"):
        found.pop(f"export/saved_model/{name}", None)
    found.pop("report/report.html", None)
    if "evaluate/metrics.json" in found:
        metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
        del metrics["timings"]
        found["evaluate/metrics.json"] = hashlib.sha256(json.dumps(metrics).encode()).hexdigest()
    return found


def finished_stages(run: Path) -> set[str]:
    """The stages with a record, every one of whose files is what it says.

    Raises:
        AssertionError: a stage's folder stands there without being whole.
    """
    found = set()
    for stage in pipeline.STAGES:
        if (run / stage).exists():
            record = artifacts.Record.read(run / stage)
            assert record is not None, f"{run / stage} has no record"
            damage = artifacts.damaged(run / stage, record.outputs)
            assert damage is None, f"{run / stage}: {damage} is damaged"
            found.add(stage)
    return found


@dataclass
class Process:
    """A run in a process of its own, whose stderr goes to a file as it comes."""

    arguments: list[str]
    threads: int = 1
    process: subprocess.Popen = field(init=False)

    def __post_init__(self):
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this object
        self.process = subprocess.Popen(
            self.arguments,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=environment(self.threads),
            start_new_session=True,
        )

    def stop_after(self, seconds: float, number: signal.Signals) -> bool:
        """Send a signal, unless it ends before; whether it was sent."""
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, number)
            self.process.wait(120)
            return True

    def finish(self, seconds: float = 900) -> int:
        """Wait for its end; the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"no end after {seconds} s: {self.stderr}") from None

    @property
    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    @property
    def stage(self) -> str:
        """The stage that it was in."""
        started = re.findall(r"^(\w+): running \(", self.stderr, re.MULTILINE)
        ended = re.findall(r"^(\w+): (?:done in|was done)", self.stderr, re.MULTILINE)
        if not started:
            return "before the first"
        return "between two" if started[-1] in ended else started[-1]


@dataclass
class Reference:
    """An uninterrupted run: what it leaves, and what it takes."""

    folder: Path
    contents: dict[str, str]
    start: float
    """Seconds before the first stage."""
    seconds: dict[str, float]
    """Of each stage, what is loaded for it included."""

    def remaining(self, run: Path) -> float:
        """Seconds that a run with these finished stages is expected to take still."""
        done = finished_stages(run)
        return self.start + sum(s for stage, s in self.seconds.items() if stage not in done)


def reference(folder: Path) -> Reference:
    """Run the recipe once and whole."""
    process, clock = Process(command(folder)), time.monotonic()
    start, seconds, last = 0.0, {}, 0.0
    while process.process.poll() is None:
        time.sleep(0.1)
        elapsed = time.monotonic() - clock
        if not start and ": running (" in process.stderr:
            start = last = elapsed
        for stage in pipeline.STAGES:
            if stage not in seconds and f"{stage}: done in" in process.stderr:
                seconds[stage], last = elapsed - last, elapsed
    assert process.finish() == 0, process.stderr
    for stage in pipeline.STAGES:
        seconds.setdefault(stage, 1.0)
    run = folder / RECIPE.stem
    return Reference(run, contents(run), start, seconds)


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The files that one has and the other hasn't, or with other bytes."""
    return sorted({name for name, _ in set(found.items()) ^ set(expected.items())})


def row(what: str, count: int, outcome: str) -> None:
    """Print one row of the results, as JSON."""
    found = {"what": what, "count": count, "outcome": outcome}
    print(json.dumps(found, ensure_ascii=False), flush=True)


def arguments(default: int, what: str) -> tuple[int, random.Random]:
    """The number of faults from the command line, and the generator, whose seed is printed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else default
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"{what}: {count}, seed {seed}", file=sys.stderr, flush=True)
    return count, random.Random(seed)
