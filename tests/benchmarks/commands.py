"""Commands from process start to exit: a run by stages, and training on more images."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path

import measure
import numpy as np
from measure import Row

COMMAND = str(Path(sys.executable).with_name("keras-lenet"))
RECIPES = measure.ROOT / "pipelines"
IMPORTS = {
    "TensorFlow and Keras, imported alone": "import tensorflow, keras",
    "with tf_keras and tensorflow-model-optimization": (
        "import tensorflow, keras, tf_keras, tensorflow_model_optimization"
    ),
}
SCALE = """
data = {{dataset = "{}", validation_split = 0.1}}
train = {{batch_size = 256, epochs = 1, warmup_epochs = 0}}
"""
SCALE_CASE = "training for an epoch from one file"
SCALE_IMAGES, SCALE_QUICK = (600_000, 2_000_000), (24_000, 80_000)


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
        taken[name] = measure.wall(lambda code=code: execute([sys.executable, "-c", code]))
    return [Row(recipe.stem, name, "s", seconds) for name, seconds in taken.items()]


def execute(command: list[str]) -> None:
    """Run a command; Python may keep its bytecode, as an installed package does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def scale(quick: bool) -> list[Row]:
    """Return the memory and the processor time of `train` for an epoch from one file.

    The start of the command is included. Images are random pixels, since neither memory nor time
    depends on what they show. Nothing waits for a disk while the file fits in the page cache. Needs
    2 GB of disk.
    """
    memory, seconds = [], []
    for count in SCALE_QUICK if quick else SCALE_IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count)
            recipe = Path(folder) / "scale.toml"
            recipe.write_text(SCALE.format(folder))
            command = [COMMAND, "run", str(recipe), "--until", "train", "--runs", f"{folder}/runs"]
            before, peak = used(), 0
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    peak = max(peak, anonymous(process.pid))
                    time.sleep(0.01)
            if process.returncode:
                raise RuntimeError(f"training ends with status {process.returncode}")
        name, taken = f"{count:,} images", used() - before
        memory.append(Row(f"{SCALE_CASE}: peak of anonymous memory", name, "MB", peak / 1e6))
        seconds.append(
            Row(f"{SCALE_CASE}: processor time an image", name, "µs", 1e6 * taken / count)
        )
    return memory + seconds


def write_images(folder: Path, count: int) -> None:
    """Write training images and labels, uncompressed."""
    from keras_lenet.data import catalogue

    generator = np.random.default_rng(0)
    images, labels = catalogue.find(str(folder)).files["train"]
    with (folder / images.name).open("wb") as file:
        file.write(bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">u4").tobytes())
        for _ in range(0, count, 2_000):
            file.write(generator.bytes(2_000 * 28 * 28))
    with (folder / labels.name).open("wb") as file:
        file.write(bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes())
        file.write(generator.integers(0, 10, count, np.uint8).tobytes())


def anonymous(pid: int) -> int:
    """Return the bytes of a process's memory that belong to no file; 0 if it has ended."""
    found = re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found else 0


def used() -> float:
    """Return the processor time of all children that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime
