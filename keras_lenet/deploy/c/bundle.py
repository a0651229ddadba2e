"""The bundle of a generated network: its C, a test with vectors, a Makefile, an example, a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet.artifacts import digest
from keras_lenet.deploy import bare_name, fill, footprint, write_files
from keras_lenet.deploy.c import emitter, lowering
from keras_lenet.deploy.tflm import ATTRIBUTION
from keras_lenet.edge.classifier import Classifier
from keras_lenet.tflite import inspection


def write(model: Path, images: NDArray[np.uint8], names: list[str], folder: Path) -> None:
    """Generate C from an int8 .tflite into `folder`.

    Args:
        model: an int8 digit classifier.
        images: uint8, (N, 28, 28): inputs of the test's vectors.
        names: one for each image.
        folder: for the files.

    Raises:
        Error: the file can't be read, or no C is generated for its ops; nothing is written.
    """
    network = lowering.read(model)
    name = identifier(model)
    title = f"{model.name}, SHA-256 {digest(model.read_bytes())}"
    classifier = Classifier(model, kernels="reference")
    files = emitter.emit(name, title, network, classifier.threshold)
    report = inspection.inspect(model)
    values = {
        "name": name,
        "model": model.name,
        "bytes": f"{report.bytes:,}",
        "ops": ", ".join(op.name for op in report.ops),
        "vectors": len(images),
        "scratch": f"{emitter.plan(network).bytes:,}",
        "measured": footprint.of_c(name, files),
        "attribution": ATTRIBUTION,
        "names": ",\n".join(f'"{text}"' for text in names),
        "images": ",\n".join(f"{{\n{_rows(image)}\n}}" for image in images),
        "answers": ",\n".join(
            f"{{{', '.join(map(str, row))}}}"
            for row in classifier.raw(images, batch_size=1).tolist()
        ),
    }
    files[f"{name}_test.c"] = fill("c/test.c", **values)
    files[f"{name}_example/{name}_example.ino"] = fill("c/example.ino", **values)
    files["Makefile"] = fill("c/Makefile", **values)
    files["README.md"] = fill("c/README.md", **values)
    write_files(folder, files)


def identifier(model: Path) -> str:
    """Return the prefix of a model's functions and files: its file's name, as C can have it."""
    stem = re.sub(r"\W", "_", bare_name(model), flags=re.ASCII).lower()
    return stem if stem[:1].isalpha() else f"model_{stem}"


def _rows(image: NDArray[np.uint8]) -> str:
    return ",\n".join(f"    {', '.join(map(str, row))}" for row in image.tolist())
