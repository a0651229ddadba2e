"""Measure how many deliberate faults the tests of a room notice, with mutmut.

    python tests/mutants.py [ROOM ...] [--sample 60]

mutmut changes one place of the code at a time (a mutant) and runs the tests that reach this place.
Scores and survivors go to `tests/mutants.json`, with the reason why a survivor is equivalent to the
original; a reason is kept as long as its mutant survives. `--sample` tries random mutants of a room
where one takes seconds. Each room is measured in a copy of the checkout.
"""

import argparse
import configparser
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "mutants.json"
UNNOTICED = (0, 33, None)
"""mutmut's exit codes of mutants that no test noticed, that no test reaches, and that it left."""
ROOMS = {
    "reading": ("data/reading", "reading download"),
    "loading": ("data/loading", "loading"),
    "augment": ("data/augment", "augment"),
    "outliers": ("data/outliers", "outliers"),
    "catalogue": ("data/catalogue data/download", "catalogue reading download"),
    "corruptions": ("data/corruptions", "corruptions"),
    "fit": ("training/fit", "fitting loop optimizer"),
    "train": ("stages/train training/setup", "train optimizer fitting"),
    "distill": ("stages/distill", "distill"),
    "quantize": ("stages/quantize", "quantize"),
    "export": ("stages/export tflite/convert", "export"),
    "layout": ("tflite/layout", "layout"),
    "gates": ("evaluation/metrics", "metrics"),
    "evaluate": ("stages/evaluate", "evaluate"),
    "calibration": ("evaluation/confidence", "confidence"),
    "scorers": ("evaluation/scorers evaluation/quantization_noise", "scorers quantization_noise"),
    "robustness": ("evaluation/robustness", "robustness"),
    "prepare": ("edge/prepare edge/page edge/decoding", "prepare pictures"),
    "classifier": ("edge/classifier", "classifier"),
    "c": ("deploy/arithmetic deploy/lowering", "c_source"),
    "tflm": ("deploy/tflm tflite/parity", "tflm parity"),
    "records": ("artifacts", "artifacts"),
    "recipe": ("recipe", "recipe"),
    "pipeline": ("pipeline", "runner publish"),
}
"""Modules below `keras_lenet/`, and the tests, without `test_`, that should notice their faults."""
SLOW = {"train", "distill", "quantize"}
"""Rooms whose slow tests are run too."""


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
            found = measure(name, Path(folder) / "checkout", given.sample)
        reasons = record.get(name, {}).get("survivors", {})
        found["survivors"] = {diff: reasons.get(diff, "") for diff in found["survivors"]}
        record[name] = found
        ordered = {key: record[key] for key in ROOMS if key in record}
        RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {found['killed']} of {found['tried']} killed; {found['mutants']} in all")


def measure(name: str, folder: Path, sample: int | None) -> dict:
    """Run mutmut on a room in a copy of the checkout; return its counts and survivors' diffs."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))
    modules = [f"keras_lenet/{module}.py" for module in ROOMS[name][0].split()]
    configure(name, modules, folder / "setup.cfg")
    mutants = folder / "mutants"
    mutants.mkdir()  # Python ignores a path that is missing at its start
    environment = os.environ | {
        "PYTHONPATH": str(mutants),
        "KERAS_LENET_DATA": str(Path(os.environ.get("KERAS_LENET_DATA", "")).resolve()),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mutmut", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def codes() -> dict[str, int | None]:
        metas = [json.loads((mutants / f"{module}.meta").read_text()) for module in modules]
        return {mutant: code for meta in metas for mutant, code in meta["exit_code_by_key"].items()}

    def unnoticed(names: list[str]) -> list[str]:
        run = mutmut("run", *names)
        if run.returncode:
            raise SystemExit(f"mutmut failed:\n{(run.stdout + run.stderr)[-3000:]}")
        found = codes()
        return [mutant for mutant in names if found[mutant] in UNNOTICED]

    mutmut("run", "none")  # writes mutants, learns which tests reach them
    every = list(codes())
    tried = random.Random(0).sample(every, min(sample or len(every), len(every)))
    survivors = unnoticed(tried)
    if survivors:
        # mutmut assigns the code of a shared fixture to its first test alone: run every test.
        stats = mutants / "mutmut-stats.json"
        learnt = json.loads(stats.read_text())
        tests = list(learnt["duration_by_test"])
        reached = learnt["tests_by_mangled_function_name"]
        learnt["tests_by_mangled_function_name"] = dict.fromkeys(reached, tests)
        stats.write_text(json.dumps(learnt))
        survivors = unnoticed(survivors)
    killed = len(tried) - len(survivors)
    return {
        "mutants": len(every),
        "tried": len(tried),
        "killed": killed,
        "score": round(killed / len(tried), 4),
        "survivors": [diff(mutant, mutmut("show", mutant).stdout) for mutant in survivors],
    }


def configure(name: str, modules: list[str], path: Path) -> None:
    """Write mutmut's settings."""
    tests = [f"tests/test_{test}.py" for test in ROOMS[name][1].split()]
    settings = {
        "source_paths": ["keras_lenet"],
        "only_mutate": modules,
        "also_copy": ["pipelines", "exported", "README.md", "Makefile"],
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"]
        + ([] if name in SLOW else ["-m", "not slow"]),
        "process_isolation": ["forkserver"],
        "timeout_constant": ["60"],  # tests may wait for a compiler on a busy machine
    }
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
