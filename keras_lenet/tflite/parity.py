"""Parity of the kernel sets, LiteRT's and TensorFlow Lite Micro's: one file's outputs on each."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.edge.classifier import Classifier, Kernels
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection

MICRO = "micro"
"""The kernel set of TensorFlow Lite Micro, where the package tflite-micro is installed."""
INSTALL = "pip install --pre tflite-micro"
ARENA = 64 << 10


@dataclass(frozen=True)
class Parity:
    """The outputs of one kernel set beside XNNPACK's.

    Attributes:
        kernels: the kernel set.
        flips: the images in another class, each as a line of text.
        largest: largest difference of any output, in units of the last place.
        unequal: number of images on which any output differs.
        arena: bytes of arena used by TensorFlow Lite Micro; None for the others.
    """

    kernels: str
    flips: tuple[str, ...]
    largest: int
    unequal: int
    arena: int | None = None


def has_micro() -> bool:
    """Return whether TensorFlow Lite Micro's interpreter is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def compare(path: Path, images: NDArray[np.uint8]) -> list[Parity]:
    """Run an int8 or uint8 .tflite on every kernel set over images, uint8 (N, 28, 28).

    Raises:
        Error: the file is no digit classifier, or its output is float.
    """
    classifier = Classifier(path)
    if not classifier.output.scale:
        raise Error(f"{path}: expected int8 or uint8 outputs, found float32")
    expected = classifier.raw(images)
    found = [Parity("xnnpack", (), 0, 0)]
    for kernels in get_args(Kernels)[1:]:
        outputs = Classifier(path, kernels=kernels).raw(images)
        found.append(_compared(kernels, outputs, expected))
    if has_micro():
        outputs, used = run_micro(path, classifier.quantize(images))
        found.append(_compared(MICRO, outputs, expected, used))
    return found


def softmax_bound(path: Path) -> int | None:
    """Return the largest difference of outputs if no logit differs by more than one unit.

    Kernel sets round differently by one unit in the last place. The softmax is steepest where two
    digits tie: there one unit up in one logit and one down in the other, each of `scale`, move a
    probability by half of `scale`, in units of 1/256.

    Returns:
        The bound in units of the last place, rounding included; None for a file without softmax.
    """
    for op in inspection.inspect(path).ops:
        if op.name == "SOFTMAX" and op.inputs[0].scale is not None:
            return math.ceil(256 * op.inputs[0].scale / 2) + 1
    return None


def _compared(
    kernels: str, outputs: NDArray[Any], expected: NDArray[Any], arena: int | None = None
) -> Parity:
    difference = np.abs(outputs.astype(np.int32) - expected)
    before, after = expected.argmax(1), outputs.argmax(1)
    flips = tuple(
        f"image {i}: {after[i]} ({outputs[i].max()}) instead of {before[i]} ({expected[i].max()})"
        for i in np.flatnonzero(before != after)
    )
    unequal = int(difference.any(axis=1).sum())
    return Parity(kernels, flips, int(difference.max()), unequal, arena)


def run_micro(path: Path, inputs: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Run a file on TensorFlow Lite Micro's interpreter.

    Args:
        path: the .tflite.
        inputs: quantized, (N, 28, 28, 1).

    Returns:
        The outputs, (N, 10), and the bytes of arena used.

    Raises:
        Error: the interpreter lacks an op of the file, or memory.
    """
    from tflite_micro.python.tflite_micro import runtime

    try:
        interpreter = runtime.Interpreter.from_bytes(path.read_bytes(), arena_size=ARENA)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise Error(f"{path}: TensorFlow Lite Micro cannot run it: {reason}") from error
    outputs = []
    for image in inputs:
        interpreter.set_input(image[np.newaxis], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    with console.captured(1, 2) as lines:
        interpreter.print_allocations()
    used = re.search(r"Arena allocation total (\d+) bytes", "".join(lines))
    if used is None:
        raise Error("TensorFlow Lite Micro did not say how much of its arena it used")
    return np.array(outputs), int(used[1])


def arena(path: Path) -> tuple[int, str]:
    """Return the bytes of RAM that TensorFlow Lite Micro needs, and the source of the figure.

    Raises:
        Error: the interpreter is installed, but lacks an op of the file, or memory.
    """
    report = inspection.inspect(path)
    if not has_micro():
        how = "an estimate, twice the activations at their peak: tflite-micro was not installed"
        return 2 * report.peak_activation_bytes, how
    image = report.inputs[0]
    _, used = run_micro(path, np.zeros(image.shape, image.dtype))  # the same for any image
    return used, (
        f"TensorFlow Lite Micro used {used} bytes on a 64-bit host; a 32-bit core uses fewer"
    )
