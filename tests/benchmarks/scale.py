"""What more images cost: memory and time of an epoch, in shards, by number of images.

Images are random pixels, since neither memory nor time depends on what they show. Time is that of
processors: nothing waits for a disk while the files fit in the page cache. Needs 2 GB of disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
from measure import Peer, Row

from keras_lenet.data import datasets, idx

SHARD, QUICK = 50_000, 2_000
COUNTS = (12, 40)
"""Shards of training images: 600,000 and 2,000,000 images."""


def rows(quick: bool) -> list[Row]:
    """Return the rows of memory and time; a process for each number of images."""
    shard = QUICK if quick else SHARD
    memory, seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        pool = Path(name) / "pool"
        write_pool(pool, shard, max(COUNTS))
        for count in COUNTS:
            images = shard * count
            options = {"data": str(dataset(pool, count)), "count": images}
            process = measure.Process(Peer("", "scale:trained", options))
            process.answer()
            answers = [process.repeat() for _ in range(2)]  # processor time, then the peak
            process.stop()
            for found, case, unit, scale, answer in (
                (memory, "peak of anonymous memory", "MB", 1e6, answers[1]),
                (seconds, "processor time an image", "µs", images / 1e6, answers[0]),
            ):
                row = Row(f"an epoch in shards: {case}", f"{images:,} images", unit)
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
    from keras_lenet import terminal
    from keras_lenet.data import loading
    from keras_lenet.recipe import Recipe, Train
    from keras_lenet.stages import train

    terminal.console.quiet = True
    settings = Train(batch_size=256, epochs=1, warmup_epochs=0)
    recipe = Recipe(name="bench", train=settings)

    def answers() -> Iterator[float]:
        with peak() as bytes_, tempfile.TemporaryDirectory() as out:
            start = time.process_time()
            training, validation = loading.load_training(data, None, 0.1, 0)
            assert len(training) + len(validation) == count
            batches = train.augmented(recipe, training, settings.batch_size, recipe.seed)
            train.fit(recipe, batches, training, validation, None, Path(out))
            taken = time.process_time() - start
        yield taken
        yield max(bytes_)

    return answers().__next__


def write_pool(folder: Path, shard: int, count: int) -> None:
    """Write shards of random images and labels."""
    generator = np.random.default_rng(0)
    for number in range(count):
        images = generator.integers(0, 256, (shard, 28, 28), np.uint8)
        idx.write(folder / f"images-{number}", images)
        idx.write(folder / f"labels-{number}", generator.integers(0, 10, shard, np.uint8))


def dataset(pool: Path, count: int) -> Path:
    """Make a folder with links to the first `count` shards of the pool."""
    data = pool.with_name(f"train-{count}")
    data.mkdir()
    files = datasets.find(str(data)).files("train")
    for kind, file in zip(("images", "labels"), files, strict=True):
        for number in range(count):
            link = data / f"{file.name}-{number:05}-of-{count:05}"
            os.link(pool / f"{kind}-{number}", link)
    return data


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
