"""What more images cost: memory and time of an epoch, from one file, by number of images.

Images are random pixels, since neither memory nor time depends on what they show. Time is that of
processors: nothing waits for a disk while the file fits in the page cache. Needs 2 GB of disk.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
from measure import Peer, Row

from keras_lenet.data import catalogue

COUNTS, QUICK = (600_000, 2_000_000), (24_000, 80_000)
"""Training images."""


def rows(quick: bool) -> list[Row]:
    """Return the rows of memory and time; a process for each number of images."""
    memory, seconds = [], []
    for images in QUICK if quick else COUNTS:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), images)
            process = measure.Process(Peer("", "scale:trained", {"data": name, "count": images}))
            process.answer()
            answers = [process.repeat() for _ in range(2)]  # processor time, then the peak
            process.stop()
        for found, case, unit, scale, answer in (
            (memory, "peak of anonymous memory", "MB", 1e6, answers[1]),
            (seconds, "processor time an image", "µs", images / 1e6, answers[0]),
        ):
            row = Row(f"an epoch from one file: {case}", f"{images:,} images", unit)
            found.append(
                measure.replace(row, note=answer["note"])
                if "note" in answer
                else measure.replace(row, median=answer["seconds"] / scale)
            )
    return memory + seconds


def trained(data: str, count: int) -> measure.Repetition:
    """Prepare an epoch as the training stage has it, with validation on a tenth.

    Its first repetition answers with processor seconds, the second with the first one's peak of
    memory in bytes.
    """
    from keras_lenet import console
    from keras_lenet.data import loading
    from keras_lenet.recipe import Recipe, Train
    from keras_lenet.training import inputs, setup

    console.console.quiet = True
    settings = Train(batch_size=256, epochs=1, warmup_epochs=0)
    recipe = Recipe(name="bench", train=settings)

    def answers() -> Iterator[float]:
        with peak() as bytes_, tempfile.TemporaryDirectory() as out:
            start = time.process_time()
            training, validation = loading.load_training(data, None, 0.1, 0)
            assert len(training) + len(validation) == count
            batches = inputs.augmented(recipe, training, settings.batch_size, recipe.seed)
            setup.train_model(recipe, batches, training, validation, None, Path(out))
            taken = time.process_time() - start
        yield taken
        yield max(bytes_)

    return answers().__next__


def write(folder: Path, count: int) -> None:
    """Write training images and labels, uncompressed."""
    generator = np.random.default_rng(0)
    images, labels = catalogue.find(str(folder)).files("train")
    with (folder / images.name).open("wb") as file:
        file.write(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28)))
        for _ in range(0, count, 2_000):
            file.write(generator.bytes(2_000 * 28 * 28))
    header = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
    (folder / labels.name).write_bytes(
        header + generator.integers(0, 10, count, np.uint8).tobytes()
    )


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """Watch this process's anonymous memory in bytes, every 10 ms: what no file could give back."""
    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(max(anonymous(), seen.pop()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def anonymous() -> int:
    """Return the bytes of memory of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
