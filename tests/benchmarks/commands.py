"""Commands from process start to exit: beside bare processes, and `quickstart` by its stages."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from operator import itemgetter
from pathlib import Path

import measure
import numpy as np
from measure import Peer, Row
from PIL import Image

COMMAND = str(Path(sys.executable).with_name("keras-lenet"))
RECIPES = measure.ROOT / "pipelines"
INTERPRETER = "import numpy; from ai_edge_litert.interpreter import Interpreter"
MODEL = str(measure.EXPORTED / "lenet5_int8.tflite")
IMPORTS = {
    "TensorFlow and Keras, imported alone": "import tensorflow, keras",
    "with tf_keras and tensorflow-model-optimization": (
        "import tensorflow, keras, tf_keras, tensorflow_model_optimization"
    ),
}


def start_up(quick: bool) -> list[Row]:
    """Return the rows of each command, in processor time."""
    nothing = peer("Python", python("pass"))
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/one.png"
        page = np.full((120, 120), 230, np.uint8)
        page[20:100, 55:65] = 30
        Image.fromarray(page).save(picture)
        run = [COMMAND, "run", str(RECIPES / "smoke.toml"), "--runs", folder]
        cases = {
            "classify": [
                peer("`keras-lenet classify one.png`", [COMMAND, "classify", picture]),
                nothing,
                peer("NumPy", python("import numpy")),
                peer("NumPy, the interpreter", python(INTERPRETER)),
                peer(
                    "NumPy, the interpreter, the model opened",
                    python(f"{INTERPRETER}; Interpreter({MODEL!r})"),
                ),
            ],
            "help": [peer("`keras-lenet --help`", [COMMAND, "--help"]), nothing],
            # The warm-up runs every stage.
            "run": [peer("`keras-lenet run`, up to date", run), nothing],
        }
        return [
            row
            for case, peers in cases.items()
            for row in measure.compare(case, "ms", peers, repetitions=2 if quick else 21)
        ]


def whole_process(quick: bool) -> list[Row]:
    """Return the seconds of a run into an empty folder, of each stage, and of imports."""
    recipe = RECIPES / ("smoke.toml" if quick else "quickstart.toml")
    with tempfile.TemporaryDirectory() as runs:
        command = [COMMAND, "run", str(recipe), "--runs", runs]
        whole = measure.wall(lambda: execute(command))
        records = [json.loads(path.read_text()) for path in Path(runs).glob("*/*/stage.json")]
    taken = {"the whole": whole}
    taken |= {each["stage"]: each["seconds"] for each in sorted(records, key=itemgetter("started"))}
    taken["the rest"] = whole - sum(record["seconds"] for record in records)
    for name, code in IMPORTS.items():
        taken[name] = measure.wall(lambda code=code: execute(python(code)))
    return [Row(recipe.stem, name, "s", seconds) for name, seconds in taken.items()]


def python(code: str) -> list[str]:
    """Return the command of a bare process."""
    return [sys.executable, "-c", code]


def peer(name: str, command: list[str]) -> Peer:
    """Return a command, from start to exit, as a peer."""
    return Peer(name, "commands:process", {"command": command})


def process(command: list[str]) -> measure.Repetition:
    """Prepare a command, in processor time: other programs' time isn't in it."""

    def used() -> float:
        found = resource.getrusage(resource.RUSAGE_CHILDREN)
        return found.ru_utime + found.ru_stime

    def repetition() -> float:
        before = used()
        execute(command)
        return used() - before

    return repetition


def execute(command: list[str]) -> None:
    """Run a command; Python may keep its bytecode, as an installed package does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
