"""The C++ bundle of an int8 model for TensorFlow Lite Micro.

Plain files for a firmware's source tree: the model as an aligned array, a resolver with exactly the
ops that it uses, its contract as constants, golden vectors, and a self-test that compares them on
the board. Beside these files lies the .tflite itself.
"""

from __future__ import annotations

import importlib.util
import json
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.artifacts import digest, write_bytes
from keras_lenet.data import catalogue, reading
from keras_lenet.deploy import bare_name, fill, write_files
from keras_lenet.edge.classifier import Classifier
from keras_lenet.tflite import inspection, metadata_writer, parity

ATTRIBUTION = """\
The images named after a digit are from "Optical Recognition of Handwritten Digits" by E. Alpaydin
and C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, scaled to 28x28.
Licence: CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"""
"""Credit that the licence of these images asks for, in every file that shows them."""


def golden_images() -> tuple[NDArray[np.uint8], list[str]]:
    """Return the first UCI digit of each class, and edge cases that saturate or excite every pixel.

    A run's own dataset is not used: its licence may forbid handing images on. scikit-learn has the
    digits; where it isn't installed, the edge cases stand alone.

    Returns:
        uint8, (M, 28, 28), and a name for each.
    """
    rows, columns = np.indices((28, 28))
    edges = {
        "blank": np.zeros((28, 28)),
        "full ink": np.full((28, 28), 255),
        "checkerboard": (rows + columns) % 2 * 255,
        "gradient": (rows * 28 + columns) * 255 // 783,
        "one pixel in each corner": np.isin(rows, (0, 27)) * np.isin(columns, (0, 27)) * 255,
        "noise": np.random.default_rng(0).integers(0, 256, (28, 28)),
    }
    images = {}
    if importlib.util.find_spec("sklearn"):
        digits = reading.load(catalogue.DIGITS, "train")
        classes, first = np.unique(digits.labels, return_index=True)
        images = {f"a {label}": digits.images[at] for label, at in zip(classes, first, strict=True)}
    images |= edges
    return np.stack(list(images.values())).astype(np.uint8), list(images)


def write(model: Path, folder: Path) -> None:
    """Write the bundle of an int8 .tflite into `folder`.

    The golden vectors are outputs of TensorFlow Lite Micro's own interpreter, because its kernels
    round differently from TensorFlow Lite's. Where tflite-micro isn't installed, the bundle has
    neither golden vectors nor the self-test, and a message says so.

    Args:
        model: an int8 digit classifier.
        folder: where to write.

    Raises:
        Error: the file is no digit classifier, or TensorFlow Lite Micro cannot run it.
    """
    classifier = Classifier(model)
    stem, content = bare_name(model), model.read_bytes()
    values = {
        "stem": stem,
        "file": model.name,
        "size": len(content),
        "bytes": f"{len(content):,}",
        "sha256": digest(content),
        "fnv1a": f"{fnv1a(content):#010x}",
        "content": _rows(content, 16),
        **_contract(classifier, model),
    }
    files = {
        f"{stem}_{name}": fill(f"tflm/{name}", **values)
        for name in ("model.h", "model.cc", "ops.h", "contract.h")
    }
    tested = parity.has_micro()
    if tested:
        images, names = golden_images()
        inputs = classifier.quantize(images)
        outputs, _ = parity.run_micro(model, inputs)
        rows = [textwrap.indent(_rows(image.ravel(), 28), "  ") for image in inputs]
        values |= {
            "vectors": len(inputs),
            "credit": ATTRIBUTION.replace("\n", "\n// ").rstrip("/"),
            "names": ", ".join(f'"{name}"' for name in names),
            "images": "\n".join(f"{{\n{image}\n}}," for image in rows),
            "outputs": "\n".join(f"{{{', '.join(map(str, row))}}}," for row in outputs),
        }
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


def _contract(classifier: Classifier, model: Path) -> dict[str, object]:
    """Return the ops, the quantization, the labels, the threshold and the arena of a model."""
    ops = sorted({op.name for op in inspection.inspect(model).ops})
    methods = [f"Add{op.title().replace('_', '')}" for op in ops]  # AddConv2D, …
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
