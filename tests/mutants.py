"""Measure how many deliberate faults the tests of a room notice, with mutmut.

    python tests/mutants.py [ROOM ...] [--sample 60] [--jobs 2] [--survivors]

mutmut changes the code in one place at a time ("mutants") and runs the tests that reach this place.
Scores and survivors go to `tests/mutants.json`, which also holds the reason why a survivor is
equivalent to the original; a reason is kept as long as its mutant survives. Where a mutant takes
seconds, as in rooms of TensorFlow, a random sample of the room's mutants is tried; the record says
how many. Each room is measured in a copy of the checkout, in a folder that the system's temporary
files have.
"""

from __future__ import annotations

import argparse
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
SURVIVED, NO_TESTS = 0, 33
"""What mutmut notes for a mutant that no test noticed, and for one that no test reaches."""


@dataclass(frozen=True)
class Room:
    """Code, and the only tests that have to notice its faults.

    Attributes:
        modules: files to mutate.
        tests: files below `tests/`, without `test_` and `.py`.
        functions: patterns of the functions to mutate; all of the modules' by default.
        slow: whether slow tests have a say; each is run for every mutant that it reaches.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    functions: tuple[str, ...] = ("*",)
    slow: bool = False


ROOMS = {
    "reading": Room(("data/reading.py",), ("reading", "download")),
    "loading": Room(("data/loading.py",), ("loading",)),
    "augment": Room(("data/augment.py",), ("augment",)),
    "outliers": Room(("data/outliers.py",), ("outliers",)),
    "catalogue": Room(
        ("data/catalogue.py", "data/download.py"), ("catalogue", "reading", "download")
    ),
    "corruptions": Room(("data/corruptions.py",), ("corruptions",)),
    "fit": Room(("training/fit.py", "training/losses.py"), ("fitting", "loop")),
    "train": Room(
        ("stages/train.py", "training/setup.py", "training/inputs.py", "training/optimizer.py"),
        ("train", "muon", "fitting"),
        slow=True,
    ),
    "distill": Room(("stages/distill.py",), ("distill",), slow=True),
    "quantize": Room(("stages/quantize.py",), ("quantize",), slow=True),
    "export": Room(("stages/export.py", "tflite/convert.py"), ("export",)),
    "layout": Room(("tflite/layout.py",), ("layout",)),
    "publish": Room(("seeds.py",), ("publish",)),
    "gates": Room(
        ("stages/evaluate.py", "evaluation/results.py"), ("evaluate",), ("*gate*", "*measure*")
    ),
    "significance": Room(("evaluation/significance.py",), ("significance",)),
    "calibration": Room(("evaluation/confidence.py",), ("confidence",)),
    "scorers": Room(
        ("evaluation/scorers.py", "evaluation/quantization_noise.py"),
        ("scorers", "quantization_noise"),
    ),
    "robustness": Room(("evaluation/robustness.py",), ("robustness",)),
    "prepare": Room(
        ("edge/prepare.py", "edge/ink.py", "edge/components.py", "edge/decoding.py"),
        ("prepare", "pictures"),
    ),
    "classifier": Room(("edge/classifier.py",), ("classifier",)),
    "c": Room(("deploy/c/arithmetic.py", "deploy/c/graph.py"), ("c_source",)),
    "tflm": Room(("deploy/tflm.py", "tflite/parity.py"), ("tflm", "parity")),
    "records": Room(("artifacts.py",), ("artifacts",)),
    "recipe": Room(("recipe.py",), ("recipe",)),
    "pipeline": Room(("pipeline.py",), ("runner",), ("*stale*", "*reason*", "*select*")),
}


def main() -> None:
    """Measure the rooms, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants of each room")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--survivors", action="store_true", help="print the survivors' diffs")
    arguments = parser.parse_args()
    if unknown := set(arguments.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in arguments.rooms or ROOMS:
        with tempfile.TemporaryDirectory(prefix=f"mutants-{name}-") as folder:
            found = measure(ROOMS[name], Path(folder), arguments.jobs, arguments.sample)
        reasons = record.get(name, {}).get("survivors", {})
        found["survivors"] = {diff: reasons.get(diff, "") for diff in found["survivors"]}
        record[name] = found
        RECORD.write_text(
            json.dumps(
                {key: record[key] for key in ROOMS if key in record}, indent=1, ensure_ascii=False
            )
            + "\n"
        )
        print(
            f"{name}: {found['killed']} of {found['tried']} killed, {found['score']:.1%}; "
            f"{found['mutants']} in all",
            flush=True,
        )
        if arguments.survivors:
            print("\n\n".join(found["survivors"]))


def measure(room: Room, folder: Path, jobs: int, sample: int | None) -> dict[str, Any]:
    """Run mutmut on a room in a copy of the checkout; return its counts and survivors' diffs."""
    _copy_checkout(folder)
    modules = [f"keras_lenet/{module}" for module in room.modules]
    (folder / "setup.cfg").write_text(
        _section(
            source_paths=["keras_lenet"],
            only_mutate=modules,
            also_copy=["pipelines", "exported", "README.md", "Makefile"],
            pytest_add_cli_args_test_selection=[f"tests/test_{test}.py" for test in room.tests],
            pytest_add_cli_args=[
                "-p",
                "no:cacheprovider",
                *([] if room.slow else ["-m", "not slow"]),
            ],
            process_isolation="forkserver",
            # A test of a millisecond may wait for a compiler on a busy machine.
            timeout_constant="60",
        )
    )
    mutants = folder / "mutants"
    mutants.mkdir()  # Python forgets a path that isn't there when it starts

    def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mutmut", *arguments],
            cwd=folder,
            env=os.environ
            | {
                "PYTHONPATH": str(mutants),
                "KERAS_LENET_DATA": str(Path(os.environ.get("KERAS_LENET_DATA", "")).resolve()),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            capture_output=True,
            text=True,
        )

    def codes() -> dict[str, int | None]:
        metas = [json.loads((mutants / f"{module}.meta").read_text()) for module in modules]
        return {name: code for meta in metas for name, code in meta["exit_code_by_key"].items()}

    def tried(names: list[str]) -> list[str]:
        """Try mutants, and return those that no test noticed."""
        run = mutmut("run", "--max-children", str(jobs), *names)
        if run.returncode:
            raise SystemExit(f"mutmut failed:\n{(run.stdout + run.stderr)[-3000:]}")
        return [name for name in names if codes()[name] in (SURVIVED, NO_TESTS, None)]

    mutmut(
        "run", "--max-children", str(jobs), "none"
    )  # writes mutants, learns which tests reach them
    patterns = [
        f"{module[:-3].replace('/', '.')}.{f}" for module in modules for f in room.functions
    ]
    every = [n for n in codes() if any(fnmatch.fnmatch(n, pattern) for pattern in patterns)]
    chosen = every
    if sample is not None and sample < len(every):
        chosen = random.Random(0).sample(every, sample)
    survivors = tried(chosen)
    if survivors:
        # What a shared fixture reaches was put down to the first of its tests alone: ask them all.
        stats = mutants / "mutmut-stats.json"
        learnt = json.loads(stats.read_text())
        tests = list(learnt["duration_by_test"])
        learnt["tests_by_mangled_function_name"] = dict.fromkeys(
            learnt["tests_by_mangled_function_name"], tests
        )
        stats.write_text(json.dumps(learnt))
        survivors = tried(survivors)
    killed = len(chosen) - len(survivors)
    return {
        "mutants": len(every),
        "tried": len(chosen),
        "killed": killed,
        "score": round(killed / len(chosen), 4),
        "survivors": [_diff(name, mutmut("show", name).stdout) for name in survivors],
    }


def _copy_checkout(folder: Path) -> None:
    """Copy all files that git tracks or would."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), tracked):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def _section(**settings: list[str] | str) -> str:
    """A section of a setup.cfg; lists stand a value a line."""
    lines = []
    for key, value in settings.items():
        text = value if isinstance(value, str) else "".join(f"\n    {each}" for each in value)
        lines.append(f"{key} = {text}\n")
    return "[mutmut]\n" + "".join(lines)


def _diff(name: str, shown: str) -> str:
    """The lines that a mutant changes, headed by its function."""
    changed = [
        line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return "\n".join([name.rpartition("__mutmut_")[0], *changed])


if __name__ == "__main__":
    main()
