"""The C++ bundle of an int8 model for TensorFlow Lite Micro.

Plain files for a firmware's source tree: the model as an aligned array, a resolver with exactly the
ops that it uses, its contract as constants, golden vectors, and a self-test that compares them on
the board. Beside these files lies the .tflite itself.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.deploy import bare_name, fill, write_files
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.tflite import inspection, metadata_writer, parity

OPS = {
    "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "MEAN",
    "PAD", "QUANTIZE", "RELU", "RESHAPE", "RESIZE_BILINEAR", "SOFTMAX", "TANH",
}  # fmt: skip
"""Ops whose name in TensorFlow Lite Micro's micro_mutable_op_resolver.h is known: AddConv2D, …"""

ATTRIBUTION = """\
The images named after a digit are from "Optical Recognition of Handwritten Digits" by E. Alpaydin
and C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, scaled to 28x28.
Licence: CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"""
"""Credit that the licence of these images asks for, in every file that shows them."""


def golden_images(
    images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the first image of each class, and edge cases that saturate or excite every pixel.

    Args:
        images: uint8, (N, 28, 28).
        labels: uint8, (N,).

    Returns:
        uint8, (M, 28, 28), and a name for each.
    """
    classes, first = np.unique(labels, return_index=True)
    rows, columns = np.indices((28, 28))
    edges = {
        "blank": np.zeros((28, 28)),
        "full ink": np.full((28, 28), 255),
        "checkerboard": (rows + columns) % 2 * 255,
        "gradient": (rows * 28 + columns) * 255 // 783,
        "one pixel in each corner": np.isin(rows, (0, 27)) * np.isin(columns, (0, 27)) * 255,
        "noise": np.random.default_rng(0).integers(0, 256, (28, 28)),
    }
    edge_images = np.stack(list(edges.values())).astype(np.uint8)
    return np.concatenate([images[first], edge_images]), [*(f"a {c}" for c in classes), *edges]


def write(model: Path, images: NDArray[np.uint8], names: list[str], folder: Path) -> None:
    """Write the bundle of an int8 .tflite into `folder`.

    The golden vectors are outputs of TensorFlow Lite Micro's own interpreter, whose kernels round
    otherwise than TensorFlow Lite's. Where tflite-micro isn't installed, the bundle has neither
    golden vectors nor the self-test, and a message says so.

    Args:
        model: an int8 digit classifier.
        images: uint8, (M, 28, 28): inputs of the golden vectors.
        names: one for each image.
        folder: for the files.

    Raises:
        Error: the file isn't an int8 digit classifier, or uses an op that is not in `OPS`.
    """
    classifier = Classifier(model)
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(f"{model}: the microcontroller bundle takes an int8 file")
    stem, content = bare_name(model), model.read_bytes()
    values = {"stem": stem, "file": model.name, **_model(content), **_contract(classifier, model)}
    files = {
        f"{stem}_{name}": fill(f"tflm/{name}", **values)
        for name in ("model.h", "model.cc", "ops.h", "contract.h")
    }
    tested = parity.has_micro()
    if tested:
        inputs = classifier.quantize(images)
        outputs, _ = parity.run_micro(model, inputs)
        values |= _golden(inputs, outputs, names)
        files[f"{stem}_golden.h"] = fill("tflm/golden.h", **values)
        for name in ("self_test.cc", "Makefile"):
            files[name] = fill(f"tflm/{name}", **values)
    else:
        console.say(
            f"no golden vectors for {model.name}: they need TensorFlow Lite Micro's interpreter "
            f"({parity.INSTALL}, x86-64 Linux only)"
        )
    values["vectors_rows"] = fill("tflm/vectors.md", **values) if tested else ""
    values["self_test"] = fill(f"tflm/{'self_test' if tested else 'untested'}.md", **values)
    files["README.md"] = fill("tflm/README.md", **values)
    write_files(folder, files)
    write_bytes(folder / model.name, content)


def fnv1a(content: bytes) -> int:
    """Compute the 32-bit FNV-1a hash (Fowler, Noll, Vo): a few instructions on any board."""
    value = 0x811C9DC5
    for byte in content:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def _rows(values: NDArray[np.generic] | bytes, width: int) -> str:
    numbers = [f"{value}," for value in values]
    return "\n".join(" ".join(numbers[i : i + width]) for i in range(0, len(numbers), width))


def _model(content: bytes) -> dict[str, object]:
    return {
        "size": len(content),
        "bytes": f"{len(content):,}",
        "sha256": digest(content),
        "fnv1a": f"{fnv1a(content):#010x}",
        "content": _rows(content, 16),
    }


def _contract(classifier: Classifier, model: Path) -> dict[str, object]:
    """Return the ops, the quantization, the labels, the threshold and the arena of a model."""
    ops = sorted({op.name for op in inspection.inspect(model).ops})
    if unknown := [op for op in ops if op not in OPS]:
        raise Error(f"{unknown[0]} is not among the ops that the resolver table knows")
    methods = [f"Add{op.title().replace('_', '')}" for op in ops]
    labels = metadata_writer.labels(model.read_bytes()) or [str(number) for number in range(10)]
    used, how = parity.arena(model)
    arena = -(-used // 1024) * 1024
    return {
        "count": len(ops),
        "calls": "\n".join(f"if (resolver.{m}() != kTfLiteOk) return false;" for m in methods),
        "input_scale": repr(classifier.input.scale),
        "input_zero_point": classifier.input.zero_point,
        "output_scale": repr(classifier.output.scale),
        "output_zero_point": classifier.output.zero_point,
        "labels": ", ".join(map(json.dumps, labels)),
        "threshold": repr(classifier.threshold),
        "arena_size": arena,
        "arena": f"{arena:,}",
        "how": how,
        "install": parity.INSTALL,
        "attribution": ATTRIBUTION,
    }


def _golden(
    inputs: NDArray[np.int8], outputs: NDArray[np.int8], names: list[str]
) -> dict[str, object]:
    return {
        "vectors": len(inputs),
        "credit": ATTRIBUTION.replace("\n", "\n// ").rstrip("/"),
        "names": ", ".join(f'"{name}"' for name in names),
        "images": "\n".join(
            f"{{\n{textwrap.indent(_rows(image.ravel(), 28), '  ')}\n}}," for image in inputs
        ),
        "outputs": "\n".join(f"{{{', '.join(map(str, row))}}}," for row in outputs),
    }
