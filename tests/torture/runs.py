"""Inject faults into whole runs of the smoke recipe: kills, full disks, a second run."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_lenet import artifacts
from keras_lenet.stages import STAGES

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "pipelines" / "smoke.toml"
SETTINGS = ("--set", "train.epochs=4", "--set", "quantize.epochs=2")
STOPPED = r"keras-lenet: stopped by SIG(INT|TERM); run the same command again to resume"
CHAIN = 7  # kills that hit one run folder before it may finish
ROOM = 64 << 20  # bytes of a file system on which a run fits
TIMEOUT = 900  # seconds


class Process:
    """Run on one thread, in a process of its own, whose stderr goes to a file."""

    def __init__(self, runs, *options):
        number = {f"TF_NUM_{kind}OP_THREADS": "1" for kind in ("INTRA", "INTER")}
        command = [sys.executable, "-m", "keras_lenet", "run", str(RECIPE), "--runs", str(runs)]
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this object
        self._process = subprocess.Popen(
            [*command, *SETTINGS, *options],
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | number,
            start_new_session=True,
        )
        self.pid = self._process.pid

    @property
    def stderr(self):
        self._stderr.seek(0)
        return self._stderr.read()

    def wait_for(self, text):
        """Wait until the run prints a text."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.stderr:
            assert self._process.poll() is None, self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.05)

    def signal_after(self, seconds, number):
        """Send a signal; return the exit status, or None where the run ended before."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, number)
            return self._process.wait(120)

    def finish(self, status=0):
        """Wait for the end, which has to have this exit status."""
        try:
            found = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            raise
        assert found == status, self.stderr

    def error(self):
        """Return the only line of an error, after which the run has to end with status 1."""
        self.finish(1)
        assert "Traceback" not in self.stderr, self.stderr
        lines = self.stderr.rstrip().splitlines()
        ours = [line for line in lines if line.startswith("keras-lenet: ")]
        assert ours == lines[-1:], self.stderr
        print(ours[0], flush=True)
        return ours[0]


def contents(run):
    """Return the SHA-256, by name, of every file that the recipe alone decides.

    Leave out records and times, which differ between runs, and `.keras` and SavedModel, which hold
    dates.
    """
    found = {
        f"{stage}/{name}": digest
        for stage in STAGES
        for name, digest in artifacts.hash_files(run / stage).items()
        if name != "report.html" and not name.startswith(("saved_model/", "model.keras"))
    }
    if "evaluate/metrics.json" in found:
        metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
        del metrics["timings"]
        for model in metrics["models"].values():
            del model["bytes"]
        found["evaluate/metrics.json"] = hashlib.sha256(json.dumps(metrics).encode()).hexdigest()
    return found


def differences(found, expected):
    """Return the names of files that are missing on one side or have other bytes."""
    return sorted({name for name, _ in found.items() ^ expected.items()})


def finished_stages(run):
    """Return the finished stages; check that each has its record and files."""
    found = {stage for stage in STAGES if (run / stage).exists()}
    for stage in found:
        damage = artifacts.damaged(run / stage, artifacts.Record.of_finished(run / stage).outputs)
        assert damage is None, f"{run / stage}: {damage} is damaged"
    return found


class Reference:
    """An uninterrupted run: its folder, its contents, and the seconds that its parts take."""

    def __init__(self, runs):
        start = time.monotonic()
        Process(runs).finish()
        whole = time.monotonic() - start
        self.run = runs / RECIPE.stem
        self.contents = contents(self.run)
        self.seconds = {
            stage: artifacts.Record.of_finished(self.run / stage).seconds
            for stage in finished_stages(self.run)
        }
        self.start = max(1.0, whole - sum(self.seconds.values()))

    def remaining(self, run):
        """Return the seconds that a run with these finished stages is expected to take still."""
        done = finished_stages(run)
        return self.start + sum(s for stage, s in self.seconds.items() if stage not in done)

    def check(self, run):
        """Check that a finished run has the same contents."""
        found = differences(contents(run), self.contents)
        assert not found, f"differ from the uninterrupted run: {found}"


@contextlib.contextmanager
def reference():
    """Yield a scratch folder and an uninterrupted run in it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        yield Path(folder), Reference(Path(folder) / "whole")


def epochs(run):
    """Return the number of epochs of each stage in its result or its checkpoint."""
    found = {}
    for folder in (*run.glob(".*.partial"), *(run / name for name in finished_stages(run))):
        history = folder / artifacts.HISTORY
        if history.exists():
            name = folder.name.removeprefix(".").removesuffix(".partial")
            found[name] = max(len(history.read_text().splitlines()) - 1, found.get(name, 0))
    return found


def kills(wanted, generator):
    """Kill a run at random moments, and run it again: it ends with the same bytes.

    After each kill every finished stage is complete, and no stage and no epoch is lost. SIGINT and
    SIGTERM, one of each to a folder, end in one line and in the status that shells expect.
    """
    killed = polite = folders = 0
    with reference() as (scratch, expected):
        while killed < wanted:
            folders += 1
            runs = scratch / f"runs{folders}"
            run = runs / RECIPE.stem
            signals = [signal.SIGINT, signal.SIGTERM]
            signals += [signal.SIGKILL] * min(CHAIN, wanted - killed)
            generator.shuffle(signals)
            for number in signals:
                stages, safe = finished_stages(run), epochs(run)
                process = Process(runs)
                moment = generator.uniform(0, expected.remaining(run))
                status = process.signal_after(moment, number)
                if status is None:
                    break
                assert stages <= finished_stages(run), f"lost: {stages - finished_stages(run)}"
                after = epochs(run)
                lost = [name for name, count in safe.items() if after.get(name, 0) < count]
                assert not lost, f"epochs lost: {safe}, {after}"
                started = re.findall(r"^(\w+): running \(", process.stderr, re.MULTILINE)
                if number == signal.SIGKILL:
                    killed += 1
                elif started:  # the handlers stand by then
                    polite += 1
                    assert status == 128 + number, process.stderr
                    last = process.stderr.rstrip().splitlines()[-1]
                    assert re.fullmatch(STOPPED, last), process.stderr
                print(f"{killed}: {number.name} in {started[-1:]}", flush=True)
            Process(runs).finish()
            expected.check(run)
    outcome = f"{folders} runs end with every byte, lost: none"
    yield "SIGKILL at a random moment", killed, outcome
    yield "SIGINT, SIGTERM", polite, "one line, status 130 or 143, lost: none"


def disk(wanted, generator):
    """Run on full and read-only disks, and twice at once."""
    with reference() as (scratch, expected):
        if may_mount(scratch / "probe"):  # root alone may
            stages = sorted(expected.seconds)
            for number in range(wanted):
                stage, share = stages[number % len(stages)], generator.uniform(0.02, 0.9)
                print(f"{stage}, {share:.0%}: ", end="", flush=True)
                full_disk(expected, stage, share, scratch / f"full{number}")
            yield "a full disk", wanted, "one line, lost: none"
            read_only(expected, scratch / "read-only")
            yield "a read-only disk", 1, "one line, lost: none"
        two_at_once(expected, scratch / "two")
        yield "two runs at once", 1, "the second says that the folder is in use, and leaves"


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


@contextlib.contextmanager
def mounted(folder):
    """Mount a file system of its own at `folder`."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount(folder):
    with contextlib.suppress(OSError, subprocess.CalledProcessError), mounted(folder):
        return True
    return False


def full_disk(expected, stage, share, folder):
    """Run a stage on a disk with room for `share` of its files, then with more room."""
    stages = [name for name in STAGES if (expected.run / name).exists()]
    stages = stages[: stages.index(stage) + 1]
    run, options = folder / RECIPE.stem, ("--until", stage)
    with mounted(folder):
        for name in stages[:-1]:
            shutil.copytree(expected.run / name, run / name)
        sizes = [path.stat().st_size for path in (expected.run / stage).rglob("*")]
        needed = sum(-(-size // 4096) * 4096 for size in sizes)
        used = shutil.disk_usage(folder).used
        mount("-o", f"remount,size={int(used + share * needed)}", folder)
        line = Process(folder, *options).error()
        assert "No space left" in line or "disk" in line, line
        assert finished_stages(run) == set(stages[:-1])
        mount("-o", f"remount,size={ROOM}", folder)
        Process(folder, *options).finish()
        found = contents(run)
        wanted = {k: v for k, v in expected.contents.items() if k.partition("/")[0] in stages}
        assert found == wanted, differences(found, wanted)


def read_only(expected, folder):
    with mounted(folder):
        shutil.copytree(expected.run, folder / RECIPE.stem)
        mount("-o", "remount,ro", folder)
        Process(folder).finish()  # up to date: nothing to write
        Process(folder, "--set", "seed=1", "--until", "train").error()


def two_at_once(expected, folder):
    """Start a second run, which ends with one line; the first goes on."""
    first = Process(folder)
    first.wait_for(": running (")
    line = Process(folder).error()
    assert "in use by another process" in line, line
    first.finish()
    expected.check(folder / RECIPE.stem)
