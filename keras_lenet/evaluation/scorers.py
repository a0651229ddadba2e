"""Scorers: model files of any kind, each in its own runtime."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.data import loading
from keras_lenet.data.loading import Pixels
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation.metrics import Timing
from keras_lenet.tflite import convert, metadata_writer

Predict = Callable[[Pixels], NDArray[np.float32]]
"""From uint8 (N, 28, 28) to float32 (N, 10) probabilities, batch by batch."""

BATCH = 500
REPETITIONS, WARM_UP = 200, 20
"""Timed calls with one image, and calls before them."""
MAX_KERAS_BYTES = 1 << 30
"""Largest unpacked size of a Keras file."""


@dataclass(frozen=True)
class Scorer:
    """A model file with its title in tables, its predictions and its kernel set."""

    title: str
    path: Path
    predict: Predict
    kernels: str

    @property
    def bytes(self) -> int:
        """Size of the file, or of all files in the folder."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def time(self, images: Pixels) -> Timing:
        """Time one image at a time, the Python call included, and one batch."""
        seconds = []
        for position in range(REPETITIONS + WARM_UP):
            image = images[position % len(images)][np.newaxis]
            start = time.perf_counter()
            self.predict(image)
            seconds.append(time.perf_counter() - start)
        low, high = np.percentile(seconds[WARM_UP:], [50, 95]) * 1e6
        batch = images[:BATCH]
        self.predict(batch)
        start = time.perf_counter()
        self.predict(batch)
        throughput = len(batch) / (time.perf_counter() - start)
        return Timing(
            kernels=self.kernels,
            p50_us=round(low, 1),
            p95_us=round(high, 1),
            batched_images_per_second=round(throughput),
        )


def open_file(path: Path, classes: Sequence[str]) -> Scorer:
    """Open a Keras file, a SavedModel folder or a .tflite for images of `classes`.

    Raises:
        Error: the file cannot be read, or breaks the contract.
    """
    if not path.exists():
        raise Error(f"{path}: not found; expected a .keras file, a SavedModel folder or a .tflite")
    with console.quiet_native_logs():
        if path.is_dir():
            return of_saved_model(path, path.name)
        if path.suffix == ".keras":
            return of_keras(load_keras(path), path, path.name)
        return of_tflite(path, classes)


def of_tflite(path: Path, classes: Sequence[str]) -> Scorer:
    """Return the scorer of a .tflite file on one thread.

    Raises:
        Error: the file cannot be read, breaks the contract, or has other labels than `classes`.
    """
    classifier = Classifier(path)
    labels = metadata_writer.labels(path.read_bytes())
    if labels is not None and labels != list(classes):
        raise Error(
            f"{path}: its labels are {', '.join(labels)[:100]}; expected those of the dataset: "
            f"{', '.join(classes)}; name its own dataset, as in --dataset fashion_mnist"
        )
    return Scorer(path.name, path, _in_batches(classifier.predict), "XNNPACK")


def of_keras(model: Any, path: Path, title: str) -> Scorer:
    """Return the scorer of a Keras or tf_keras model of logits, with resize and softmax added.

    Raises:
        Error: the shapes are not (N, side, side, 1) and (N, 10).
    """
    entrance, exit_ = model.input_shape, model.output_shape
    square = isinstance(entrance, tuple) and len(entrance) == 4 and entrance[1] == entrance[2]
    if not square or entrance[3] != 1 or not entrance[1] or exit_ != (None, loading.CLASSES):
        raise Error(
            f"{path}: expected a model from (N, side, side, 1) to logits (N, 10), found "
            f"{entrance} to {exit_}"
        )
    probabilities = tf.function(convert.deployed(model, entrance[1]))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        unit = tf.constant(images[..., np.newaxis], tf.float32) / 255
        return np.asarray(probabilities(unit))

    return Scorer(title, path, _in_batches(predict), "TensorFlow")


def of_saved_model(path: Path, title: str) -> Scorer:
    """Return the scorer of a SavedModel with a signature from uint8 images to probabilities.

    Raises:
        Error: the SavedModel cannot be read, or has another signature.
    """
    try:
        saved = tf.saved_model.load(str(path))
        serve = saved.signatures["serving_default"]
        takes = serve.structured_input_signature[1]["images"]
        gives = serve.structured_outputs["probabilities"]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise Error(
            f"{path}: expected a SavedModel with the signature serving_default, from images to "
            f"probabilities ({' '.join(str(error).split())[:200]})"
        ) from error
    shapes = (takes.shape.as_list(), gives.shape.as_list())
    if takes.dtype != tf.uint8 or shapes != ([None, 28, 28, 1], [None, 10]):
        raise Error(
            f"{path}: expected uint8 (N, 28, 28, 1) to (N, 10), found {takes.dtype.name} "
            f"{shapes[0]} to {shapes[1]}"
        )

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        # `saved` keeps the loaded object alive as long as its signature.
        return saved and serve(images=tf.constant(images[..., np.newaxis]))["probabilities"].numpy()

    return Scorer(title, path, _in_batches(predict), "TensorFlow")


def load_keras(path: Path) -> Any:
    """Load the model in a Keras file; code in the file does not run.

    Raises:
        Error: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_KERAS_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes, more than {MAX_KERAS_BYTES:,}")
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged or malicious file makes Keras raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise Error(f"{path}: cannot be read as a Keras model ({reason})") from error


def _in_batches(predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Predict:
    def whole(images: Pixels) -> NDArray[np.float32]:
        probabilities = np.empty((len(images), loading.CLASSES), np.float32)
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            probabilities[batch] = predict(images[batch])
        return probabilities

    return whole
