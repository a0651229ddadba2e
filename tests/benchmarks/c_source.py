"""Generated C beside LiteRT's reference kernels: bytes that differ, and what other processors take.

How fast it is on this host is a row of the benchmark `inference`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import EXPORTED, Row
from numpy.typing import NDArray

from keras_lenet.data import reading
from keras_lenet.deploy import footprint
from keras_lenet.deploy.c import bundle
from keras_lenet.edge.classifier import Classifier

RANDOM, EMULATED, QUICK = 100_000, 1_000, 100
MODEL = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"

MANY = """\
#include "@name@.h"
void many(const uint8_t *images, int8_t *probabilities, int count)
{
    for (int i = 0; i < count; ++i) {
        @name@_probabilities(images + 784 * i, probabilities + 10 * i);
    }
}
"""


def rows(quick: bool) -> list[Row]:
    """Return the rows of different bytes, and of the costs on a Cortex-M and on AArch64."""
    data = os.environ.get("KERAS_LENET_DATA")
    test = reading.load("mnist", "test", Path(data) if data else None).images
    images = np.ascontiguousarray(test[: QUICK if quick else None])
    noise = np.random.default_rng(1).integers(
        0, 256, (QUICK if quick else RANDOM, 28, 28), np.uint8
    )
    with tempfile.TemporaryDirectory() as temporary:
        generated = Path(temporary)
        name = write(generated, images[:10])
        return [*exactness(generated, name, images, noise), *costs(generated, name)]


def write(generated: Path, images: NDArray[np.uint8]) -> str:
    """Write the C of the published model into a folder; its name."""
    names = [f"image {number}" for number in range(len(images))]
    bundle.write(MODEL, images, names, generated)
    return bundle.identifier(MODEL)


def compiled(generated: Path, name: str, options: str) -> Callable[[NDArray[np.uint8]], NDArray]:
    """Compile the C to a function from images, uint8 (N, 28, 28), to scores, int8 (N, 10)."""
    (generated / "many.c").write_text(MANY.replace("@name@", name))
    command = ["gcc", "-std=c99", *options.split(), "-shared", "-fPIC", "-o", "many.so"]
    subprocess.run([*command, "many.c", f"{name}.c"], cwd=generated, check=True)
    many = ctypes.CDLL(str(generated / "many.so")).many

    def answers(images: NDArray[np.uint8]) -> NDArray[np.int8]:
        found = np.empty((len(images), 10), np.int8)
        many(ctypes.c_void_p(images.ctypes.data), ctypes.c_void_p(found.ctypes.data), len(images))
        return found

    return answers


def exactness(
    generated: Path, name: str, images: NDArray[np.uint8], noise: NDArray[np.uint8]
) -> list[Row]:
    """Count the bytes that differ from the reference kernels', here and on emulated processors."""
    reference = Classifier(MODEL, kernels="reference")
    answers = compiled(generated, name, "-O3")
    found = []
    for kind, some in (("test", images), ("random", noise)):
        wrong = int((answers(some) != reference.raw(some)).sum())
        found.append(Row("different bytes", f"{len(some):,} {kind} images", "bytes", wrong))
    some = images[:EMULATED]
    expected = reference.raw(some)
    (generated / "images").write_bytes(some.tobytes())
    for target in footprint.TARGETS:
        row = (
            "different bytes",
            f"{len(some):,} test images, {target.name}, emulated",
            "bytes",
        )
        if target.missing:
            found.append(Row(*row, note=f"not installed: {target.missing}"))
            continue
        sources = [generated / f"{name}_test.c", generated / f"{name}.c"]
        footprint.build(target, sources, generated / "program")
        command = footprint.emulated(target, generated / "program", "images", "answers")
        subprocess.run(command, cwd=generated, check=True, stdout=subprocess.DEVNULL)
        scores = np.fromfile(generated / "answers", np.int8).reshape(-1, 20)[:, 10:]
        found.append(Row(*row, int((scores != expected).sum())))
    return found


def costs(generated: Path, name: str) -> list[Row]:
    """Return flash, RAM and stack on a Cortex-M4, and the instructions an image on each target."""
    found = []
    if footprint.M4.missing:
        found.append(
            Row("Cortex-M4, -O2", "all", "", note=f"not installed: {footprint.M4.missing}")
        )
    else:
        labels = ("flash: code and weights", "RAM: static", "stack, at most")
        for label, value in zip(labels, footprint.memory(generated, name), strict=True):
            found.append(Row("Cortex-M4, -O2", label, "bytes", value))
    for target in footprint.TARGETS:
        row = ("instructions an image", target.name, "")
        if target.missing:
            found.append(Row(*row, note=f"not installed: {target.missing}"))
        else:
            found.append(Row(*row, footprint.instructions(target, generated, name)))
    return found
