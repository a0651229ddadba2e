"""Time of one inference, for one image and for a batch, of a run's exported files.

    python tests/benchmarks/inference.py [EXPORTED] [--json FILE]

One thread each. The contestants take turns, in one process, on the same images; microseconds are
medians over the rounds, and a ratio is the median of the rounds' own ratios to the first row, with
their 5th and 95th percentile. Prints Markdown; `--json` keeps the same figures for programs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet import streams
from keras_lenet.edge import layout
from keras_lenet.edge.classifier import Classifier

EXPORTED = Path(__file__).parents[2] / "exported"
ROUNDS, SECONDS = 100, 0.005
"""Rounds of at least so many seconds for each contestant."""
BATCHES = (1, 256)

Invoke = Callable[[], object]
"""One inference, of what was handed over before: no more than the runtime's own work."""
Contestant = Callable[[NDArray[np.uint8]], Invoke]
"""Takes the images, uint8 (N, 28, 28), for good; ImportError: its runtime isn't installed."""


def litert(path: Path) -> Contestant:
    """A .tflite by XNNPACK."""

    def prepare(images: NDArray[np.uint8]) -> Invoke:
        classifier = Classifier(path)
        classifier.raw(images, len(images))  # sets the input, of this size
        return classifier._interpreter.invoke

    return prepare


def contestants(exported: Path, folder: Path) -> dict[str, Contestant]:
    """What is timed, by name, in the order of the table.

    Args:
        exported: the folder of a run's files.
        folder: for files that are made here.
    """
    name = json.loads((exported / "manifest.json").read_text())["model"]
    plain = exported / "microcontroller" / f"{name}_int8.tflite"
    for variant, source in (("int8", plain), ("uint8", exported / f"{name}_uint8.tflite")):
        (folder / variant).write_bytes(layout.optimize(source.read_bytes()))
    return {
        "int8, plain layout": litert(plain),
        "int8, optimized layout": litert(folder / "int8"),
        "uint8, optimized layout": litert(folder / "uint8"),
        "float32": litert(exported / f"{name}_float32.tflite"),
    }


def measure(entries: dict[str, Contestant], images: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Microseconds an image of every round, by name; what isn't installed is left out and said."""
    invokes, repeated = {}, {}
    for name, prepare in entries.items():
        try:
            invokes[name] = prepare(images)
        except ImportError as error:
            print(f"{name}: not timed, {error}")
    for name, invoke in invokes.items():
        seconds(invoke, 3)  # warms up
        repeated[name] = max(1, round(SECONDS / min(seconds(invoke, 1) for _ in range(5))))
    rounds: dict[str, list[float]] = {name: [] for name in invokes}
    for _ in range(ROUNDS):
        for name, invoke in invokes.items():
            taken = seconds(invoke, repeated[name]) / repeated[name]
            rounds[name].append(1e6 * taken / len(images))
    return rounds


def seconds(function: Invoke, times: int) -> float:
    """Processor time of this thread: what others run on this machine isn't in it."""
    start = time.thread_time()
    for _ in range(times):
        function()
    return time.thread_time() - start


def summarize(rounds: dict[str, list[float]], batch: int) -> list[dict[str, Any]]:
    """One row a contestant."""
    first = next(iter(rounds.values()))
    rows = []
    for name, taken in rounds.items():
        ratios = [ours / theirs for ours, theirs in zip(taken, first, strict=True)]
        rows.append(
            {
                "name": name,
                "batch": batch,
                "microseconds": statistics.median(taken),
                "microseconds_range": np.percentile(taken, [5, 95]).tolist(),
                "ratio": statistics.median(ratios),
                "ratio_range": np.percentile(ratios, [5, 95]).tolist(),
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of one batch size as a table."""
    lines = [
        f"| batch of {rows[0]['batch']} | µs an image | ratio, and its range |",
        "|---|---:|---:|",
    ]
    for row in rows:
        (low, high), (least, most) = row["microseconds_range"], row["ratio_range"]
        lines.append(
            f"| {row['name']} | {row['microseconds']:.2f} ({low:.2f} to {high:.2f}) | "
            f"{row['ratio']:.3f} ({least:.3f} to {most:.3f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Time, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path, nargs="?", default=EXPORTED)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 28, 28), np.uint8)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, streams.without_information():
        entries = contestants(arguments.exported, Path(folder))
        for batch in BATCHES:
            table = summarize(measure(entries, images[:batch]), batch)
            print(markdown(table), end="\n\n")
            rows += table
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
