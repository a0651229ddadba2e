"""Measure how many deliberate faults the tests of a room notice, with mutmut.

    python tests/mutants.py [ROOM ...] [--sample 60]

mutmut changes the code in one place at a time ("mutants") and runs the tests that reach this place.
Scores and survivors go to `tests/mutants.json`, which also holds the reason why a survivor is
equivalent to the original; a reason is kept as long as its mutant survives. Where a mutant takes
seconds, as in rooms of TensorFlow, a random sample of the room's mutants is tried; the record says
how many. Each room is measured in a copy of the checkout.
"""

from __future__ import annotations

import argparse
import configparser
import fnmatch
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "mutants.json"
UNNOTICED = (0, 33, None)
"""What mutmut notes for mutants that no test noticed, that no test reaches, and that it left."""


@dataclass(frozen=True)
class Room:
    """Code, and the only tests that have to notice its faults; names are separated by spaces.

    Attributes:
        modules: files to mutate, below `keras_lenet/`, without `.py`.
        tests: files below `tests/`, without `test_` and `.py`.
        functions: patterns of the functions to mutate.
        slow: whether slow tests have a say; each is run for every mutant that it reaches.
    """

    modules: str
    tests: str
    functions: str = "*"
    slow: bool = False


ROOMS = {
    "reading": Room("data/reading", "reading download"),
    "loading": Room("data/loading", "loading"),
    "augment": Room("data/augment", "augment"),
    "outliers": Room("data/outliers", "outliers"),
    "catalogue": Room("data/catalogue data/download", "catalogue reading download"),
    "corruptions": Room("data/corruptions", "corruptions"),
    "fit": Room("training/fit training/losses", "fitting loop optimizer"),
    "train": Room(
        "stages/train training/setup training/optimizer",
        "train optimizer fitting",
        slow=True,
    ),
    "distill": Room("stages/distill", "distill", slow=True),
    "quantize": Room("stages/quantize", "quantize", slow=True),
    "export": Room("stages/export tflite/contract tflite/convert", "export"),
    "layout": Room("tflite/layout", "layout"),
    "publish": Room("seeds", "publish"),
    "gates": Room("evaluation/gates evaluation/metrics", "gates"),
    "evaluate": Room("stages/evaluate", "evaluate"),
    "significance": Room("evaluation/significance", "significance"),
    "calibration": Room("evaluation/confidence", "confidence"),
    "scorers": Room(
        "evaluation/scorers evaluation/quantization_noise", "scorers quantization_noise"
    ),
    "robustness": Room("evaluation/robustness", "robustness"),
    "prepare": Room("edge/prepare edge/page edge/decoding", "prepare pictures"),
    "classifier": Room("edge/classifier", "classifier"),
    "c": Room("deploy/c/arithmetic deploy/c/lowering", "c_source"),
    "tflm": Room("deploy/tflm tflite/parity", "tflm parity"),
    "records": Room("artifacts", "artifacts"),
    "recipe": Room("recipe", "recipe"),
    "pipeline": Room("pipeline", "runner", "*stale* *reason* *select*"),
}


def main() -> None:
    """Measure the rooms, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants of each room")
    given = parser.parse_args()
    if unknown := set(given.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    record = json.loads(RECORD.read_text())
    for name in given.rooms or ROOMS:
        with tempfile.TemporaryDirectory(prefix=f"mutants-{name}-") as folder:
            found = measure(ROOMS[name], Path(folder) / "checkout", given.sample)
        reasons = record.get(name, {}).get("survivors", {})
        found["survivors"] = {diff: reasons.get(diff, "") for diff in found["survivors"]}
        record[name] = found
        ordered = {key: record[key] for key in ROOMS if key in record}
        RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
        counts = f"{found['killed']} of {found['tried']} killed, {found['score']:.1%}"
        print(f"{name}: {counts}; {found['mutants']} in all", flush=True)


def measure(room: Room, folder: Path, sample: int | None) -> dict[str, Any]:
    """Run mutmut on a room in a copy of the checkout; return its counts and survivors' diffs."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))
    modules = [f"keras_lenet/{module}.py" for module in room.modules.split()]
    configure(room, modules, folder / "setup.cfg")
    mutants = folder / "mutants"
    mutants.mkdir()  # Python forgets a path that isn't there when it starts
    environment = {
        "PYTHONPATH": str(mutants),
        "KERAS_LENET_DATA": str(Path(os.environ.get("KERAS_LENET_DATA", "")).resolve()),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mutmut", *arguments]
        return subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
        )

    def codes() -> dict[str, int | None]:
        metas = [json.loads((mutants / f"{module}.meta").read_text()) for module in modules]
        return {name: code for meta in metas for name, code in meta["exit_code_by_key"].items()}

    def unnoticed(names: list[str]) -> list[str]:
        """Try mutants, and return those that no test noticed."""
        run = mutmut("run", *names)
        if run.returncode:
            raise SystemExit(f"mutmut failed:\n{(run.stdout + run.stderr)[-3000:]}")
        return [name for name in names if codes()[name] in UNNOTICED]

    mutmut("run", "none")  # writes mutants, learns which tests reach them
    patterns = [
        f"{module[:-3].replace('/', '.')}.{function}"
        for module in modules
        for function in room.functions.split()
    ]
    every = [n for n in codes() if any(fnmatch.fnmatch(n, pattern) for pattern in patterns)]
    chosen = every
    if sample is not None and sample < len(every):
        chosen = random.Random(0).sample(every, sample)
    survivors = unnoticed(chosen)
    if survivors:
        # What a shared fixture reaches was put down to the first of its tests alone: ask them all.
        stats = mutants / "mutmut-stats.json"
        learnt = json.loads(stats.read_text())
        for function in learnt["tests_by_mangled_function_name"]:
            tests = list(learnt["duration_by_test"])
            learnt["tests_by_mangled_function_name"][function] = tests
        stats.write_text(json.dumps(learnt))
        survivors = unnoticed(survivors)
    killed = len(chosen) - len(survivors)
    return {
        "mutants": len(every),
        "tried": len(chosen),
        "killed": killed,
        "score": round(killed / len(chosen), 4),
        "survivors": [diff(name, mutmut("show", name).stdout) for name in survivors],
    }


def configure(room: Room, modules: list[str], path: Path) -> None:
    """Write mutmut's settings."""
    settings = {
        "source_paths": ["keras_lenet"],
        "only_mutate": modules,
        "also_copy": ["pipelines", "exported", "README.md", "Makefile"],
        "pytest_add_cli_args_test_selection": [f"tests/test_{t}.py" for t in room.tests.split()],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "process_isolation": ["forkserver"],
        # A test of a millisecond may wait for a compiler on a busy machine.
        "timeout_constant": ["60"],
    }
    if not room.slow:
        settings["pytest_add_cli_args"] += ["-m", "not slow"]
    parser = configparser.ConfigParser(interpolation=None)
    parser["mutmut"] = {key: "\n".join(values) for key, values in settings.items()}
    with path.open("w") as file:
        parser.write(file)


def diff(name: str, shown: str) -> str:
    """Return the lines that a mutant changes, headed by its function."""
    changed = [
        line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return "\n".join([name.rpartition("__mutmut_")[0], *changed])


if __name__ == "__main__":
    main()
