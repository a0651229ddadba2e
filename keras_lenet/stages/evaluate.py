"""Score every artifact on every test image, each through its own runtime.

The one stage that opens the test set. Nothing is chosen here.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from keras_lenet import artifacts, models, plots, results, streams, terminal
from keras_lenet.data import loading, outliers
from keras_lenet.edge.classifier import Classifier
from keras_lenet.stages import Context, confidence, export, quantize, train

PREDICTIONS = "predictions.npz"
CONFUSION, REJECTION = "confusion.png", "rejection.png"
FLOAT, FAKE_QUANTIZED, POST_TRAINING, DEPLOYED = "keras", "qat", "int8_ptq", "int8"
REPETITIONS = 200


@dataclass(frozen=True)
class Subject:
    """Something to score.

    Attributes:
        title: its name in tables.
        path: its file or folder, for its size.
        predict: from uint8 (N, 28, 28) to float32 (N, 10) probabilities.
        kernels: the kernel set that computes.
    """

    title: str
    path: Path
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    kernels: str


def run(context: Context) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.npz` and the confusion matrices."""
    train.prepare_devices()
    test = loading.load_test(context.dataset, context.data_dir)
    with streams.without_information():
        subjects = _subjects(context)
    probabilities = {}
    with terminal.progress() as bar:
        for key, subject in bar.track(subjects.items(), description="evaluate"):
            terminal.say(f"evaluate: {subject.title}, {len(test):,} images")
            probabilities[key] = subject.predict(test.images)
    scores = {
        key: score(subject, probabilities[key], probabilities[FLOAT], test.labels)
        for key, subject in subjects.items()
    }
    same = probabilities[FAKE_QUANTIZED].argmax(1) == probabilities[DEPLOYED].argmax(1)
    agreement = float(same.mean())
    terminal.say("evaluate: what is no digit")
    rejection = confidence.rejection(
        Classifier(subjects[DEPLOYED].path),
        probabilities[DEPLOYED],
        test.labels,
        outliers.probes(context.recipe.evaluate.probes, context.recipe.seed),
    )
    right = {key: scores.argmax(1) == test.labels for key, scores in probabilities.items()}
    metrics = {
        "schema": artifacts.SCHEMA,
        "dataset": context.dataset,
        "images": len(test),
        "labels": list(export.LABELS),
        "models": scores,
        "paired": [
            {"first": DEPLOYED, "second": other} | mcnemar(right[DEPLOYED], right[other])
            for other in (FLOAT, POST_TRAINING)
        ],
        "fake_quantized_agreement": agreement,
        "rejection": rejection,
        "gates": gates(context, scores, agreement, rejection),
        "timings": {
            "cpu": cpu_name(),
            "device": train.device(),
            "threads": 1,
            "models": {key: _time(subject, test.images) for key, subject in subjects.items()},
        },
    }
    artifacts.write_json(context.out / results.METRICS, metrics)
    _keep_predictions(context.out / PREDICTIONS, test, probabilities)
    plots.confusion_matrices(
        {subjects[key].title: np.array(scores[key]["confusion"]) for key in (FLOAT, DEPLOYED)},
        f"{context.dataset}, {len(test):,} test images",
        context.out / CONFUSION,
    )
    plots.rejection(rejection, context.out / REJECTION)
    return {key: model["accuracy"] for key, model in scores.items()}


def score(
    subject: Subject,
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> dict[str, Any]:
    """Count what one model got right, and how it differs from the float model.

    Args:
        subject: the model.
        probabilities: its answers, (N, 10).
        reference: the float model's answers to the same images, (N, 10).
        labels: uint8, (N,).
    """
    answers, expected = probabilities.argmax(1), reference.argmax(1)
    correct, total = int((answers == labels).sum()), len(labels)
    return {
        "title": subject.title,
        "correct": correct,
        "total": total,
        "accuracy": correct / total,
        "interval": wilson_interval(correct, total),
        "difference": (correct - int((expected == labels).sum())) / total,
        "agreement": float((answers == expected).mean()),
        "bytes": _size(subject.path),
        "confusion": confusion_matrix(labels, answers, labels=range(10)).tolist(),
    }


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion, 95 % by default (Wilson 1927).

    It stays inside [0, 1] near 100 %, where the textbook interval does not.
    """
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare two models on the same images by McNemar's test (1947), exact.

    Args:
        first: where the first model is right, (N,).
        second: where the second is.

    Returns:
        On how many images only the one or only the other is right, and the two-sided probability
        of so uneven a division if neither is better.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def gates(
    context: Context,
    scores: dict[str, dict[str, Any]],
    agreement: float,
    rejection: dict[str, Any],
) -> list[dict[str, Any]]:
    """Each gate that the recipe sets, with the int8 file's figure."""
    deployed, settings = scores[DEPLOYED], context.recipe.evaluate
    figures = {
        "min_accuracy": deployed["accuracy"],
        "max_accuracy_drop": -deployed["difference"],
        "min_agreement": agreement,
        "max_model_bytes": deployed["bytes"],
        "max_digits_refused": rejection["digits"]["refused"] / rejection["digits"]["total"],
        "min_outliers_refused": min(
            counts["refused"] / counts["total"]
            for kind, counts in rejection["outliers"].items()
            if kind != outliers.LIKE_DIGITS
        ),
    }
    checked = []
    for gate, figure in figures.items():
        limit = getattr(settings, gate)
        if limit is not None:
            met = figure >= limit if gate.startswith("min_") else figure <= limit
            checked.append({"gate": gate, "figure": figure, "limit": limit, "met": met})
    return checked


def cpu_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _subjects(context: Context) -> dict[str, Subject]:
    name = context.recipe.model.name
    size = models.find(name).input_size
    keras_path = context.inputs["train"] / train.MODEL
    qat_path = context.inputs["quantize"] / quantize.WEIGHTS
    saved_path = context.inputs["export"] / export.SAVED_MODEL
    trained = keras.models.load_model(keras_path, compile=False)
    fake_quantized = quantize.load(context.inputs["quantize"], name)
    saved = tf.saved_model.load(str(saved_path))
    serve = saved.signatures["serving_default"]

    def served(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        # The loaded object has to outlive its signature.
        return saved and serve(images=tf.constant(images[..., np.newaxis]))["probabilities"].numpy()

    subjects = {
        FLOAT: Subject("Keras float32", keras_path, _predictor(trained, size), "TensorFlow"),
        "saved_model": Subject("SavedModel", saved_path, _in_batches(served), "TensorFlow"),
        FAKE_QUANTIZED: Subject(
            "Keras QAT", qat_path, _predictor(fake_quantized, size), "TensorFlow"
        ),
    }
    for variant in export.VARIANTS:
        path = context.inputs["export"] / export.file_name(name, variant)
        subjects[variant] = Subject(path.name, path, Classifier(path).predict, "XNNPACK")
    return subjects


def _predictor(model: Any, size: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A Keras model, with the resize and the softmax that its exports have inside."""
    probabilities = tf.function(export.deployed(model, size))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        unit = tf.constant(images[..., np.newaxis], tf.float32) / 255
        return np.asarray(probabilities(unit))

    return _in_batches(predict)


def _in_batches(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]], batch_size: int = 1000
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    def whole(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), batch_size)
        return np.concatenate([predict(images[i : i + batch_size]) for i in starts])

    return whole


def _time(subject: Subject, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Time one image at a time, the Python call included."""
    seconds = []
    for position in range(REPETITIONS + 20):
        image = images[position % len(images)][np.newaxis]
        start = time.perf_counter()
        subject.predict(image)
        seconds.append(time.perf_counter() - start)
    low, high = np.percentile(seconds[20:], [50, 95]) * 1e6  # the first ones warm up
    return {"kernels": subject.kernels, "p50_us": round(low, 1), "p95_us": round(high, 1)}


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _keep_predictions(
    path: Path, test: loading.Examples, probabilities: dict[str, NDArray[np.float32]]
) -> None:
    """Every model's probabilities, and the images that the int8 model gets wrong."""
    wrong = np.flatnonzero(probabilities[DEPLOYED].argmax(1) != test.labels)
    with artifacts.replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            labels=test.labels,
            mistakes=wrong,
            mistake_images=test.images[wrong],
            **probabilities,  # type: ignore[arg-type]
        )
