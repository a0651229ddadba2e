"""Generated C: bytes that differ from LiteRT's reference kernels', and its footprint.

The benchmark `inference` measures its speed on this host.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import EXPORTED, Row, mnist
from numpy.typing import NDArray

from keras_lenet.deploy import c, footprint
from keras_lenet.edge.classifier import Classifier

RANDOM, EMULATED, QUICK = 100_000, 1_000, 100
MODEL = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"
NAME = "lenet5"
AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
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
        c.write(MODEL, generated)
        return [*here(generated, images, noise), *elsewhere(generated, images[:EMULATED])]


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
    cortex = (footprint.COMPILER, footprint.EMULATOR)
    rows = []
    for core in (*footprint.CORES, "AArch64"):
        row = Row("different bytes", f"{len(images):,} test images, {core}, emulated", "bytes")
        missing = absent(AARCH64 if core == "AArch64" else cortex)
        if missing:
            row.note = f"not installed: {missing}"
        else:
            row.median = different_bytes(core, generated, expected)
        rows.append(row)
    if missing := absent(cortex):
        return [*rows, Row("Cortex-M4, -O2", "all", "", note=f"not installed: {missing}")]
    labels = ("flash: code and weights", "RAM: static", "stack, at most")
    for label, size in zip(labels, footprint.memory(generated, NAME), strict=True):
        rows.append(Row("Cortex-M4, -O2", label, "bytes", size))
    for core in footprint.CORES:
        count = footprint.instructions(core, generated, NAME)
        rows.append(Row("instructions an image", core, "", count))
    return rows


def absent(tools: tuple[str, ...]) -> str | None:
    return next((tool for tool in tools if not shutil.which(tool)), None)


def different_bytes(core: str, generated: Path, expected: NDArray[np.int8]) -> int:
    program = generated / "program"
    sources = [generated / f"{NAME}_test.c", generated / f"{NAME}.c"]
    command = [AARCH64[1], str(program), "images", "answers"]
    if core == "AArch64":
        compiler = [AARCH64[0], "-O3", "-static", *footprint.STRICT]
        subprocess.run([*compiler, "-o", program, *sources], check=True)
    else:
        footprint.build(core, sources, program)
        command = footprint.emulated(core, program, "images", "answers")
    subprocess.run(command, cwd=generated, check=True, stdout=subprocess.DEVNULL)
    scores = np.fromfile(generated / "answers", np.int8).reshape(-1, 20)[:, 10:]
    return int((scores != expected).sum())
