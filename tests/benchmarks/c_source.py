"""Generated C beside LiteRT: equal bytes, speed on this host, what other processors take.

    KERAS_LENET_DATA=… python tests/benchmarks/c_source.py

Prints the ratio to XNNPACK over interleaved rounds, the bytes that differ, and the costs.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet import streams
from keras_lenet.data import datasets
from keras_lenet.edge.c import folder, measure
from keras_lenet.edge.classifier import Classifier

ROUNDS, BATCH, RANDOM, EMULATED = 25, 500, 100_000, 1_000
MODEL = Path(__file__).parents[2] / "exported" / "microcontroller" / "lenet5_int8.tflite"

MANY = """\
#include "@name@.h"
void many(const uint8_t *images, int8_t *probabilities, int count)
{
    for (int i = 0; i < count; ++i) {
        @name@_probabilities(images + 784 * i, probabilities + 10 * i);
    }
}
"""


def compiled(generated: Path, name: str, options: str) -> Callable[[NDArray[np.uint8]], NDArray]:
    """The C as a function from images, uint8 (N, 28, 28), to probabilities, int8 (N, 10)."""
    library = generated / f"many{abs(hash(options))}.so"
    (generated / "many.c").write_text(MANY.replace("@name@", name))
    command = ["gcc", "-std=c99", *options.split(), "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, "many.c", f"{name}.c"], cwd=generated, check=True)
    many = ctypes.CDLL(str(library)).many

    def answers(images: NDArray[np.uint8]) -> NDArray[np.int8]:
        found = np.empty((len(images), 10), np.int8)
        many(ctypes.c_void_p(images.ctypes.data), ctypes.c_void_p(found.ctypes.data), len(images))
        return found

    return answers


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call: what others run on this machine isn't in it."""
    start = time.process_time()
    function()
    return time.process_time() - start


def speed(model: Path, generated: Path, name: str, images: NDArray[np.uint8]) -> None:
    """Time each build in turn with LiteRT, in one process, and print the medians of the ratios."""
    images = np.ascontiguousarray(images[:BATCH])
    classifier = Classifier(model)
    inputs = classifier.quantize(images)
    classifier.raw(images)
    interpreter, place = classifier._interpreter, classifier._input_index

    def litert() -> None:
        interpreter.set_tensor(place, inputs)
        interpreter.invoke()

    print("| on this host, one thread | µs an image | times XNNPACK's, median | |")
    print("|---|---:|---:|---|")
    best = []
    for options in ("-O2", "-O3", "-O3 -march=native"):
        answers = compiled(generated, name, options)
        pairs = [(seconds(lambda f=answers: f(images)), seconds(litert)) for _ in range(ROUNDS)]
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        fastest = min(ours for ours, _ in pairs) * 1e6 / BATCH
        best.append(min(theirs for _, theirs in pairs) * 1e6 / BATCH)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"| `gcc {options}` | {fastest:.1f} | {statistics.median(ratios):.2f} | {spread} |")
    print(f"| LiteRT, XNNPACK, batches of {BATCH} | {min(best):.1f} | 1 | |")


def exactness(model: Path, generated: Path, name: str, images: NDArray[np.uint8]) -> None:
    """Compare every byte with the reference kernels', here and on emulated processors."""
    reference = Classifier(model, kernels="reference")
    answers = compiled(generated, name, "-O3")
    noise = np.random.default_rng(1).integers(0, 256, (RANDOM, 28, 28), np.uint8)
    print("\n| images | on | different bytes |")
    print("|---|---|---:|")
    for label, some in ((f"{len(images):,} test", images), (f"{RANDOM:,} random", noise)):
        wrong = sum(
            int((answers(np.ascontiguousarray(part)) != reference.raw(part)).sum())
            for part in np.array_split(some, max(1, len(some) // 10_000))
        )
        print(f"| {label} | this host | {wrong} |")
    some = images[:EMULATED]
    expected = reference.raw(some)
    (generated / "images").write_bytes(some.tobytes())
    for target in measure.TARGETS:
        wrong_or_why = f"not run: no {target.missing}"
        if not target.missing:
            sources = [generated / f"{name}_test.c", generated / f"{name}.c"]
            measure.build(target, sources, generated / "program")
            command = measure.emulated(target, generated / "program", "images", "answers")
            subprocess.run(command, cwd=generated, check=True)
            found = np.fromfile(generated / "answers", np.int8).reshape(-1, 20)[:, 10:]
            wrong_or_why = str(int((found != expected).sum()))
        print(f"| {len(some):,} test | {target.name}, emulated | {wrong_or_why} |")


def main() -> None:
    """Generate, time, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--dataset", default="mnist", help="whose test images")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("KERAS_LENET_DATA"))
    arguments = parser.parse_args()
    images = datasets.load(arguments.dataset, "test", arguments.data_dir).images
    name = folder.identifier(arguments.model)
    with tempfile.TemporaryDirectory() as temporary, streams.without_information():
        generated = Path(temporary)
        names = [f"image {i}" for i in range(10)]
        folder.write(arguments.model, images[:10], names, generated)
        speed(arguments.model, generated, name, images)
        exactness(arguments.model, generated, name, images)
        if not measure.M4.missing:
            print(f"\n{measure.table(generated, name)}")


if __name__ == "__main__":
    main()
