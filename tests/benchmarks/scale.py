"""What more images cost: peak memory and time, in shards and in memory, a process for each.

Images are random pixels, since neither memory nor time depends on what they show. Time is that of
processors: nothing waits for a disk while the files fit in the page cache. Takes a quarter of an
hour, and 2.2 GB of disk meanwhile; leaves `runs/scale.png`.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import measure
import numpy as np

from keras_lenet import plots
from keras_lenet.data import datasets, idx

SHARD, QUICK = 50_000, 2_000  # enough for the largest batch
COUNTS = (4, 12, 40)
"""Shards of training images; the last is ten times the first."""
SCORED = (2, 20)
"""Shards of test images."""
HELD = (4, 12)
"""As many images in memory."""
EPOCHS, BATCHES = (1, 2, 4), (64, 256, 1024)
"""Of one shard."""
BATCH = 256
MODELS = ("lenet5_int8.tflite", "model.keras")
EXPORTED = Path(__file__).parents[2] / "exported"
PLOT = Path("runs/scale.png")
MEGABYTE = 1e6

Figures = dict[str, float]
"""Of one process: processor `seconds` of the work, and `peak` memory in bytes."""


def rows(room: str, quick: bool) -> list[measure.Row]:
    """Rows for memory and time of training and of scoring, and a plot."""
    shard = QUICK if quick else SHARD
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_pool(folder / "pool", shard, max(COUNTS))

        def fit(count: int, batch: int = BATCH, epochs: int = 1, whole: bool = False) -> Figures:
            data = _dataset(folder, "train", count, whole)
            return _alone(trained, data, batch, epochs, shard * count)

        in_shards = {count: fit(count) for count in COUNTS}
        in_memory = {count: fit(count, whole=True) for count in HELD}
        by_epochs = {epochs: fit(1, epochs=epochs) for epochs in EPOCHS}
        by_batch = {batch: fit(1, batch) for batch in BATCHES}
        scored = {
            model: {
                count: _alone(predicted, _dataset(folder, "test", count), EXPORTED / model)
                for count in SCORED
            }
            for model in MODELS
        }
    cases = {"training, in shards": in_shards, "training, in memory": in_memory}
    cases |= {f"scoring {model}": found for model, found in scored.items()}
    memory = {case: _by_images(found, shard, "peak", MEGABYTE) for case, found in cases.items()}
    seconds = {case: _by_images(found, shard, "seconds") for case, found in cases.items()}
    by_epochs = {f"{shard:,} images": {key: one["seconds"] for key, one in by_epochs.items()}}
    each = {key: one["seconds"] / shard * 1e6 for key, one in by_batch.items()}
    plots.save(_drawn(memory, seconds, by_epochs, {"": each}), PLOT)
    return [
        *_memory_rows(room, memory),
        *(
            measure.Row(
                room, f"time, {case}", f"{images:,} images", "µs an image", took / images * 1e6
            )
            for case, found in seconds.items()
            for images, took in found.items()
        ),
    ]


def trained(data: Path, batch: int, epochs: int, count: int) -> float:
    """Processor seconds of a fit as the training stage has it, with validation on a tenth."""
    from keras_lenet import terminal
    from keras_lenet.data import loading
    from keras_lenet.recipe import Recipe, Train
    from keras_lenet.stages import train

    terminal.console.quiet = True
    settings = Train(batch_size=batch, epochs=epochs, warmup_epochs=0)
    recipe = Recipe(name="bench", train=settings)
    start = time.process_time()
    training, validation = loading.load_training(str(data), None, 0.1, 0)
    assert len(training) + len(validation) == count
    batches = train.augmented(recipe, training, batch, recipe.seed)
    with tempfile.TemporaryDirectory() as out:
        train.fit(recipe, batches, training, validation, None, Path(out))
    return time.process_time() - start


def predicted(data: Path, model: Path) -> float:
    """Processor seconds that a model takes for all test images."""
    from keras_lenet.data import loading
    from keras_lenet.stages import subjects

    test = loading.load_test(str(data), None)
    subject = subjects.open_file(model, datasets.NUMERALS)
    start = time.process_time()
    assert subject.predict(test.images).shape == (len(test), 10)
    return time.process_time() - start


def _write_pool(folder: Path, shard: int, count: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(count):
        images = generator.integers(0, 256, (shard, 28, 28), np.uint8)
        idx.write(folder / f"images-{number}", images)
        idx.write(folder / f"labels-{number}", generator.integers(0, 10, shard, np.uint8))


def _dataset(folder: Path, split: str, count: int, whole: bool = False) -> Path:
    """A folder with the first `count` shards of the pool: links to them, or one whole file."""
    data = folder / f"{split}-{count}-{whole}"
    if data.exists():
        return data
    data.mkdir()
    for kind, file in zip(("images", "labels"), datasets.find(str(data)).files(split), strict=True):
        parts = [folder / "pool" / f"{kind}-{number}" for number in range(count)]
        if whole:
            dims = {"images": 3, "labels": 1}[kind]
            idx.write(data / file.name, np.concatenate([idx.read(part, dims) for part in parts]))
            continue
        for number, part in enumerate(parts):
            os.link(part, data / f"{file.name}-{number:05}-of-{count:05}")
    return data


def _alone(work: Callable[..., float], *arguments: Any) -> Figures:
    """Do it in a new process, since memory that was freed stays with one that had it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        figures: Figures = process.submit(_watched, work.__name__, *arguments).result()
    print(f"{work.__name__} {arguments[0].name}: {figures}", file=sys.stderr, flush=True)
    return figures


def _watched(work: str, *arguments: Any) -> Figures:
    with _peak() as peak:
        seconds = getattr(importlib.import_module("scale"), work)(*arguments)
    return {"seconds": seconds, "peak": max(peak)}


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """This process's anonymous memory in bytes, every 10 ms: what no file could give back."""
    seen, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(max(_anonymous(), seen.pop()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _by_images(
    found: dict[int, Figures], shard: int, key: str, unit: float = 1
) -> dict[int, float]:
    return {shard * count: figures[key] / unit for count, figures in found.items()}


def _memory_rows(room: str, memory: dict[str, dict[int, float]]) -> list[measure.Row]:
    """Peak memory by number of images, each beside that of the fewest."""
    found = []
    for case, by_images in memory.items():
        fewest, least = next(iter(by_images.items()))
        for images, peak in by_images.items():
            grown = f"{peak / least:.2f} times that of {fewest:,}, {peak - least:+.0f} MB"
            note = grown if images > fewest else ""
            name = f"{images:,} images"
            found.append(measure.Row(room, f"memory, {case}", name, "MB", peak, note=note))
    return found


def _drawn(*panels: dict[str, dict[int, float]]) -> Any:
    """Four panels, of lines by name; from 0 but for the second, which has every size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    labels = (
        ("images", "peak of anonymous memory, MB"),
        ("images", "processor seconds"),
        ("epochs", "processor seconds"),
        ("batch size", "processor time, µs an image"),
    )
    figure = Figure(figsize=(12, 8), layout="constrained")
    for number, (axis, lines, (x, y)) in enumerate(
        zip(figure.subplots(2, 2).flat, panels, labels, strict=True)
    ):
        for (name, line), colour, marker in zip(
            lines.items(), plots.PALETTE, plots.MARKERS, strict=False
        ):
            axis.plot(*zip(*line.items(), strict=True), color=colour, marker=marker, label=name)
        axis.set(xlabel=x, ylabel=y)
        if number == 1:
            axis.set(xscale="log", yscale="log")
        else:
            axis.set_ylim(0, 1.1 * axis.dataLim.y1)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(lines) > 1:
            axis.legend()
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(alpha=0.3)
    return figure
