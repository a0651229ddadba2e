"""Measure how many deliberate faults the tests of a room notice, with mutmut.

    python tests/mutants.py [ROOM ...] [--jobs 2] [--survivors]

mutmut changes the code in one place at a time ("mutants") and runs the tests that reach this place.
Scores and survivors go to `tests/mutants.json`, which also holds the reason why a survivor is
equivalent to the original; a reason is kept as long as its mutant survives. Each room is measured
in a copy of the checkout, in a folder that the system's temporary files have.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
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
    "idx": Room(("data/idx.py",), ("idx",)),
    "loading": Room(("data/loading.py",), ("loading",)),
    "augment": Room(("data/augment.py",), ("augment",)),
    "outliers": Room(("data/outliers.py",), ("outliers",)),
    "datasets": Room(("data/datasets.py",), ("datasets",)),
    "corruptions": Room(("data/corruptions.py",), ("corruptions",)),
    "fit": Room(("stages/fitting.py", "stages/loop.py"), ("fitting", "loop")),
    "train": Room(("stages/train.py", "stages/muon.py"), ("train", "muon", "fitting")),
    "teach": Room(("stages/teach.py",), ("teach",), slow=True),
    "quantize": Room(("stages/quantize.py",), ("quantize",), slow=True),
    "export": Room(("stages/export.py",), ("export",)),
    "layout": Room(("edge/layout.py",), ("layout",)),
    "publish": Room(("publish.py",), ("publish",), ("*choose*", "*write*", "*run_seeds*")),
    "gates": Room(("stages/evaluate.py", "results.py"), ("evaluate",), ("*gate*", "*measure*")),
    "significance": Room(("stages/comparison.py",), ("comparison",)),
    "calibration": Room(("stages/confidence.py",), ("confidence",)),
    "scorers": Room(("stages/subjects.py", "stages/layers.py"), ("subjects", "layers")),
    "robustness": Room(("stages/robustness.py",), ("robustness",)),
    "prepare": Room(
        ("edge/prepare.py", "edge/ink.py", "edge/components.py", "edge/decoding.py"),
        ("prepare", "pictures"),
    ),
    "classifier": Room(("edge/classifier.py",), ("classifier",)),
    "c": Room(("edge/c/arithmetic.py", "edge/c/graph.py"), ("c_source",)),
    "microcontroller": Room(
        ("edge/microcontroller.py", "edge/parity.py"), ("microcontroller", "parity")
    ),
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
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--survivors", action="store_true", help="print the survivors' diffs")
    arguments = parser.parse_args()
    if unknown := set(arguments.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in arguments.rooms or ROOMS:
        with tempfile.TemporaryDirectory(prefix=f"mutants-{name}-") as folder:
            found = measure(ROOMS[name], Path(folder), arguments.jobs)
        reasons = record.get(name, {}).get("survivors", {})
        found["survivors"] = {diff: reasons.get(diff, "") for diff in found["survivors"]}
        record[name] = found
        RECORD.write_text(
            json.dumps(
                {key: record[key] for key in ROOMS if key in record}, indent=1, ensure_ascii=False
            )
            + "\n"
        )
        print(f"{name}: {found['killed']} of {found['mutants']} killed, {found['score']:.1%}")
        if arguments.survivors:
            print("\n\n".join(found["survivors"]))


def measure(room: Room, folder: Path, jobs: int) -> dict[str, Any]:
    """Run mutmut on a room in a copy of the checkout; return its counts and survivors' diffs."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), tracked):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
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
    (folder / "mutants").mkdir()  # Python forgets a path that isn't there when it starts
    mutmut = [sys.executable, "-m", "mutmut"]
    environment = os.environ | {
        "PYTHONPATH": str(folder / "mutants"),
        "KERAS_LENET_DATA": str(Path(os.environ.get("KERAS_LENET_DATA", "")).resolve()),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    selected = [
        f"{module[:-3].replace('/', '.')}.{f}" for module in modules for f in room.functions
    ]
    command = [*mutmut, "run", "--max-children", str(jobs), *selected]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"mutmut failed:\n{(run.stdout + run.stderr)[-3000:]}")
    codes: dict[str, int | None] = {}
    for module in modules:
        meta = json.loads((folder / "mutants" / f"{module}.meta").read_text())
        codes |= {
            name: code
            for name, code in meta["exit_code_by_key"].items()
            if any(fnmatch.fnmatch(name, pattern) for pattern in selected)
        }
    survivors = [name for name, code in codes.items() if code in (SURVIVED, NO_TESTS, None)]
    killed = len(codes) - len(survivors)
    return {
        "mutants": len(codes),
        "killed": killed,
        "score": round(killed / len(codes), 4),
        "survivors": [_diff(mutmut, name, folder, environment) for name in survivors],
    }


def _section(**settings: list[str] | str) -> str:
    """A section of a setup.cfg; lists stand a value a line."""
    lines = []
    for key, value in settings.items():
        text = value if isinstance(value, str) else "".join(f"\n    {each}" for each in value)
        lines.append(f"{key} = {text}\n")
    return "[mutmut]\n" + "".join(lines)


def _diff(mutmut: list[str], name: str, folder: Path, environment: dict[str, str]) -> str:
    """The lines that a mutant changes, headed by its function."""
    shown = subprocess.run(
        [*mutmut, "show", name], cwd=folder, env=environment, capture_output=True, text=True
    ).stdout.splitlines()
    changed = [line for line in shown if line[:1] in "+-@" and line[:3] not in ("+++", "---")]
    function = name.rpartition("__mutmut_")[0]
    return "\n".join([function, *(line for line in changed if not line.startswith("@"))])


if __name__ == "__main__":
    main()
