"""From process start to answer: the commands beside bare processes, in processor time.

Needs the base install alone; with `[train]` it first makes a small run, half a minute, to time
`keras-lenet run` on what is up to date.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
from PIL import Image

REPETITIONS, QUICK = 31, 2
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "exported" / "lenet5_int8.tflite"
COMMAND = str(Path(sys.executable).with_name("keras-lenet"))

NUMPY = "import numpy"
INTERPRETER = f"{NUMPY}; from ai_edge_litert.interpreter import Interpreter"
BARE = "NumPy, the interpreter, the model opened"
CLASSIFY = "`keras-lenet classify one.png`"
ONE_THREAD = "OPENBLAS_NUM_THREADS=1"  # as the command sets it for itself

# In the order in which the command comes to them.
STEPS = {
    "the command line, with Typer": "from keras_lenet import cli, streams",
    "NumPy": "import numpy",
    "LiteRT's interpreter": "import ai_edge_litert.interpreter",
    "Pillow": "from PIL import Image, ImageOps",
    "`keras_lenet.edge`": "from keras_lenet.edge import classifier, pictures, prepare",
    "open the model": "with streams.without_information(): opened = classifier.Classifier()",
    "read the picture": "picture = prepare.load(path)",
    "prepare and classify": "opened.classify(picture)",
}
TIMER = f"""
import sys, time
path, seconds = sys.argv[1], []
for step in {list(STEPS.values())!r}:
    start = time.process_time()
    exec(step)
    seconds.append(time.process_time() - start)
import json
print(json.dumps(seconds))
"""


def rows(room: str, quick: bool) -> list[measure.Row]:
    """A case for each command, and one for the steps of `classify`."""
    repetitions = QUICK if quick else REPETITIONS
    python = [sys.executable, "-c"]
    bare = [*python, f"{INTERPRETER}; Interpreter({str(MODEL)!r})"]
    nothing = {"Python": process([*python, "pass"])}
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/one.png"
        draw(picture)
        cases = {
            "classify": {
                CLASSIFY: process([COMMAND, "classify", picture]),
                **nothing,
                "NumPy": process([*python, NUMPY]),
                "NumPy, the interpreter": process([*python, INTERPRETER]),
                BARE: process(bare),
                "the same with one BLAS thread": process(["env", ONE_THREAD, *bare]),
            },
            "help": {"`keras-lenet --help`": process([COMMAND, "--help"]), **nothing},
            "run": {"`keras-lenet run`, up to date": up_to_date(folder), **nothing},
        }
        found = []
        for name, contestants in cases.items():
            case = measure.Case(
                name, contestants, "ms", repetitions=repetitions, at_least={BARE: 0.67}
            )
            found += measure.rows(room, case)
        return found + steps(room, picture, repetitions)


def steps(room: str, picture: str, repetitions: int) -> list[measure.Row]:
    """What `classify` spends its time on, in the order in which it comes to it."""
    command = ["env", ONE_THREAD, sys.executable, "-c", TIMER, picture]
    taken = [json.loads(output(command)) for _ in range(repetitions)]
    by_name = dict(zip(STEPS, map(list, zip(*taken, strict=True)), strict=True))
    return measure.unrivalled(room, "step of classify", "ms", by_name)


def process(command: list[str]) -> measure.Contestant:
    """A command from start to exit."""
    return lambda: lambda: seconds(command)


def up_to_date(folder: str) -> measure.Contestant:
    """A run of the smallest recipe in `folder`, when all is there already."""

    def prepare() -> measure.Run:
        if not importlib.util.find_spec("tensorflow"):
            raise ImportError("keras-lenet[train]")
        command = [COMMAND, "run", str(ROOT / "pipelines" / "smoke.toml"), "--runs", folder]
        output(command)
        return lambda: seconds(command)

    return prepare


def output(command: list[str]) -> bytes:
    """What a command prints; Python may keep its bytecode, as an installed package does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def seconds(command: list[str]) -> float:
    """Processor time of a command, from start to exit: what others run here isn't in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def draw(path: str) -> None:
    """A picture of a one, as dark ink on a light page."""
    page = np.full((120, 120), 230, np.uint8)
    page[20:100, 55:65] = 30
    Image.fromarray(page).save(path)
