"""From process start to answer: the command against bare processes.

    python tests/benchmarks/startup.py

Prints medians of processor time over interleaved rounds as Markdown tables: whole processes, beside
Python that does nothing and one that opens the model, and the steps of `keras-lenet classify`;
fails where that takes 1.5 times the bare cost. Needs the base install alone; with `[train]` it
first makes a small run, half a minute, to time `keras-lenet run` on what is up to date.
"""

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROUNDS, LIMIT = 31, 1.5
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "exported" / "lenet5_int8.tflite"
COMMAND = str(Path(sys.executable).with_name("keras-lenet"))

NUMPY = "import numpy"
INTERPRETER = f"{NUMPY}; from ai_edge_litert.interpreter import Interpreter"
PYTHON, BARE = "Python", "NumPy, the interpreter, the model opened"
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


def processes(picture, run):
    """What is measured from start to exit, by name.

    Args:
        picture: to be classified.
        run: a command whose result is there; None without `[train]`.
    """
    python = [sys.executable, "-c"]
    bare = [*python, f"{INTERPRETER}; Interpreter({str(MODEL)!r})"]
    up_to_date = {"`keras-lenet run RECIPE`, up to date": run} if run else {}
    return {
        PYTHON: [*python, "pass"],
        "NumPy": [*python, NUMPY],
        "NumPy, the interpreter": [*python, INTERPRETER],
        BARE: bare,
        "the same with one BLAS thread": ["env", ONE_THREAD, *bare],
        "`keras-lenet --help`": [COMMAND, "--help"],
        **up_to_date,
        CLASSIFY: [COMMAND, "classify", picture],
    }


def small_run(folder):
    """Run the smallest recipe in `folder`; returns the command, or None without `[train]`."""
    if not importlib.util.find_spec("tensorflow"):
        print("`keras-lenet run` is left out: it needs keras-lenet[train]\n")
        return None
    command = [COMMAND, "run", str(ROOT / "pipelines" / "smoke.toml"), "--runs", folder]
    output(command)
    return command


def output(command):
    """What a command prints; Python may keep its bytecode, as an installed package does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def seconds(command):
    """Processor time of a command, from start to exit: what others run here isn't in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def draw(path):
    """A picture of a one, as dark ink on a light page."""
    page = np.full((120, 120), 230, np.uint8)
    page[20:100, 55:65] = 30
    Image.fromarray(page).save(path)


def measure(picture, run):
    """Seconds of every process and of every step, by name and round, the first round left out."""
    commands = processes(picture, run)
    whole, steps = {name: [] for name in commands}, {name: [] for name in STEPS}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            whole[name].append(seconds(command))
        taken = json.loads(output(["env", ONE_THREAD, sys.executable, "-c", TIMER, picture]))
        for name, step in zip(STEPS, taken, strict=True):
            steps[name].append(step)
    return [{name: rounds[1:] for name, rounds in kind.items()} for kind in (whole, steps)]


def pairwise(rounds, base):
    """The ratio of each round."""
    return [ours / theirs for ours, theirs in zip(rounds, base, strict=True)]


def ratio(rounds, base):
    """The median of the rounds' ratios, and where half of them lie."""
    ratios = pairwise(rounds, base)
    low, _, high = statistics.quantiles(ratios)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def main():
    """Print both tables; exit with 1 where `classify` is over the limit."""
    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/one.png"
        draw(picture)
        whole, steps = measure(picture, small_run(folder))
    print(f"| process | ms, median of {ROUNDS} | times Python | times the model opened |")
    print("|---|---:|---:|---:|")
    for name, rounds in whole.items():
        ratios = " | ".join(ratio(rounds, whole[base]) for base in (PYTHON, BARE))
        print(f"| {name} | {1000 * statistics.median(rounds):.0f} | {ratios} |")
    print(f"\n| step of `classify` | ms, median of {ROUNDS} |\n|---|---:|")
    for name, rounds in {PYTHON: whole[PYTHON], **steps}.items():
        print(f"| {name} | {1000 * statistics.median(rounds):.0f} |")
    if statistics.median(pairwise(whole[CLASSIFY], whole[BARE])) > LIMIT:
        raise SystemExit(f"classify should take at most {LIMIT} times the bare cost")


if __name__ == "__main__":
    main()
