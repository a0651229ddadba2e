"""Generated C: bytes that differ from LiteRT's reference kernels', and what processors take.

How fast it is on this host is a row of the benchmark `inference`.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import EXPORTED, Row, mnist
from numpy.typing import NDArray

from keras_lenet.deploy import footprint
from keras_lenet.deploy.c import bundle
from keras_lenet.edge.classifier import Classifier

RANDOM, EMULATED, QUICK = 100_000, 1_000, 100
MODEL = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"
NAME = bundle.identifier(MODEL)
MANY = f"""\
#include "{NAME}.h"
void many(const uint8_t *images, int8_t *probabilities, int count)
{{
    for (int i = 0; i < count; ++i) {{
        {NAME}_probabilities(images + 784 * i, probabilities + 10 * i);
    }}
}}
"""


def rows(quick: bool) -> list[Row]:
    """Return the rows of different bytes, and of the costs on a Cortex-M and on AArch64."""
    images = np.ascontiguousarray(mnist("test").images[: QUICK if quick else None])
    shape = (QUICK if quick else RANDOM, 28, 28)
    noise = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        generated = Path(temporary)
        write(generated, images[:10])
        return [*here(generated, images, noise), *elsewhere(generated, images[:EMULATED])]


def write(generated: Path, images: NDArray[np.uint8]) -> None:
    """Write the C of the published model into a folder."""
    names = [f"image {number}" for number in range(len(images))]
    bundle.write(MODEL, images, names, generated)


def compiled(generated: Path, options: str) -> Callable[[NDArray[np.uint8]], NDArray[np.int8]]:
    """Compile the C to a function from images, uint8 (N, 28, 28), to scores, int8 (N, 10)."""
    (generated / "many.c").write_text(MANY)
    command = ["gcc", "-std=c99", *options.split(), "-shared", "-fPIC", "-o", "many.so"]
    subprocess.run([*command, "many.c", f"{NAME}.c"], cwd=generated, check=True)
    many = ctypes.CDLL(str(generated / "many.so")).many

    def answers(images: NDArray[np.uint8]) -> NDArray[np.int8]:
        found = np.empty((len(images), 10), np.int8)
        many(ctypes.c_void_p(images.ctypes.data), ctypes.c_void_p(found.ctypes.data), len(images))
        return found

    return answers


def here(generated: Path, *sets: NDArray[np.uint8]) -> list[Row]:
    """Count the bytes that differ on this host, on test images and on random ones."""
    reference, answers = Classifier(MODEL, kernels="reference"), compiled(generated, "-O3")
    found = []
    for kind, images in zip(("test", "random"), sets, strict=True):
        wrong = int((answers(images) != reference.raw(images)).sum())
        found.append(Row("different bytes", f"{len(images):,} {kind} images", "bytes", wrong))
    return found


def elsewhere(generated: Path, images: NDArray[np.uint8]) -> list[Row]:
    """Measure on emulated processors: bytes that differ, flash, RAM, stack, instructions."""
    expected = Classifier(MODEL, kernels="reference").raw(images)
    (generated / "images").write_bytes(images.tobytes())
    different, instructions = [], []
    for target in footprint.TARGETS:
        name = f"{len(images):,} test images, {target.name}, emulated"
        rows = [
            Row("different bytes", name, "bytes"),
            Row("instructions an image", target.name, ""),
        ]
        if target.missing:
            for row in rows:
                row.note = f"not installed: {target.missing}"
        else:
            rows[0].median = different_bytes(target, generated, expected)
            rows[1].median = footprint.instructions(target, generated, NAME)
        different.append(rows[0])
        instructions.append(rows[1])
    costs = [Row("Cortex-M4, -O2", "all", "", note=f"not installed: {footprint.M4.missing}")]
    if not footprint.M4.missing:
        labels = ("flash: code and weights", "RAM: static", "stack, at most")
        values = footprint.memory(generated, NAME)
        pairs = zip(labels, values, strict=True)
        costs = [Row("Cortex-M4, -O2", label, "bytes", value) for label, value in pairs]
    return [*different, *costs, *instructions]


def different_bytes(target: footprint.Target, generated: Path, expected: NDArray[np.int8]) -> int:
    sources = [generated / f"{NAME}_test.c", generated / f"{NAME}.c"]
    footprint.build(target, sources, generated / "program")
    command = footprint.emulated(target, generated / "program", "images", "answers")
    subprocess.run(command, cwd=generated, check=True, stdout=subprocess.DEVNULL)
    scores = np.fromfile(generated / "answers", np.int8).reshape(-1, 20)[:, 10:]
    return int((scores != expected).sum())
