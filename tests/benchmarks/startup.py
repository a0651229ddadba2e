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
from measure import Peer
from PIL import Image

REPETITIONS, QUICK = 21, 2
MODEL = measure.EXPORTED / "lenet5_int8.tflite"
COMMAND = str(Path(sys.executable).with_name("keras-lenet"))

NUMPY = "import numpy"
INTERPRETER = f"{NUMPY}; from ai_edge_litert.interpreter import Interpreter"
BARE = "NumPy, the interpreter, the model opened"
CLASSIFY = "`keras-lenet classify one.png`"

# In the order in which the command comes to them.
STEPS = {
    "the command line, with Typer": "from keras_lenet import cli, console",
    "NumPy": "import numpy",
    "LiteRT's interpreter": "import ai_edge_litert.interpreter",
    "Pillow": "from PIL import Image, ImageOps",
    "`keras_lenet.edge`": "from keras_lenet.edge import classifier, prepare",
    "open the model": "with console.without_information(): opened = classifier.Classifier()",
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


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of each command, and of the steps of `classify`."""
    repetitions = QUICK if quick else REPETITIONS
    python = [sys.executable, "-c"]
    bare = [*python, f"{INTERPRETER}; Interpreter({str(MODEL)!r})"]
    nothing = command("Python", [*python, "pass"])
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/one.png"
        draw(picture)
        cases = {
            "classify": [
                command(CLASSIFY, [COMMAND, "classify", picture]),
                nothing,
                command("NumPy", [*python, NUMPY]),
                command("NumPy, the interpreter", [*python, INTERPRETER]),
                command(BARE, bare),
            ],
            "help": [command("`keras-lenet --help`", [COMMAND, "--help"]), nothing],
            "run": [
                Peer("`keras-lenet run`, up to date", "startup:up_to_date", {"folder": folder}),
                nothing,
            ],
        }
        found = []
        for case, peers in cases.items():
            found += measure.compare(case, "ms", peers, repetitions=repetitions)
        return found + steps(picture, repetitions)


def steps(picture: str, repetitions: int) -> list[measure.Row]:
    """Return what `classify` spends its time on, in the order in which it comes to it."""
    steps = [sys.executable, "-c", TIMER, picture]
    taken = [json.loads(output(steps)) for _ in range(repetitions)]
    return [
        measure.Row("step of classify", name, "ms", *measure.spread(1e3 * each for each in seconds))
        for name, seconds in zip(STEPS, zip(*taken, strict=True), strict=True)
    ]


def command(name: str, line: list[str]) -> Peer:
    """Return a command from start to exit as a peer."""
    return Peer(name, "startup:process", {"command": line})


def process(command: list[str]) -> measure.Repetition:
    """Prepare a command."""
    return lambda: seconds(command)


def up_to_date(folder: str) -> measure.Repetition:
    """Prepare a run of the smallest recipe in `folder`, where everything is there already."""
    if not importlib.util.find_spec("tensorflow"):
        raise ModuleNotFoundError(name="keras-lenet[train]")
    command = [COMMAND, "run", str(measure.ROOT / "pipelines" / "smoke.toml"), "--runs", folder]
    output(command)
    return lambda: seconds(command)


def output(command: list[str]) -> bytes:
    """Return what a command prints; Python may keep its bytecode, as an installed package does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def seconds(command: list[str]) -> float:
    """Return the processor time of a command: what others run here isn't in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def draw(path: str) -> None:
    """Write a picture of a one, as dark ink on a light page."""
    page = np.full((120, 120), 230, np.uint8)
    page[20:100, 55:65] = 30
    Image.fromarray(page).save(path)
