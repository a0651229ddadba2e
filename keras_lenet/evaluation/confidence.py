"""Calibration of confidence by a temperature, and rejection by a confidence threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from keras_lenet.artifacts import Record
from keras_lenet.data import outliers
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.prepare import prepare
from keras_lenet.evaluation.metrics import (
    Bin,
    Calibration,
    OodRejection,
    Rejection,
    TestRejection,
)

STEPS = 256
"""Thresholds are multiples of 1/256, the quantization step of the output."""
REFUSED = 0.005
"""Share of the validation images that a file's threshold may reject."""


def divide(model: Any, temperature: float) -> None:
    """Divide a model's logits by a temperature, in the weights of its last, linear layer.

    The device then pays nothing for the division. The ranges of a fake-quantized layer are divided
    too, so that its integers stay the same.
    """
    last = model.layers[-1]
    last.set_weights(
        [
            value / np.float32(temperature) if value.dtype == np.float32 else value
            for value in last.get_weights()
        ]
    )


def temperature_of(folder: Path) -> float:
    """Return the temperature that a finished train or quantize stage found for its model."""
    return float(Record.of_finished(folder).summary["temperature"])


def temperature(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """Return the divisor of logits (N, 10) that minimizes the cross-entropy with labels (N,).

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017, section 4.2.
    """

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    # A model outside these bounds is broken, not badly calibrated.
    found = minimize_scalar(cross_entropy, bounds=(-np.log(10), np.log(10)), method="bounded")
    return float(np.exp(found.x))


def threshold(probabilities: NDArray[np.float32], share: float) -> float:
    """Return the highest multiple of 1/256 that rejects at most `share` of answers (N, 10).

    An answer with a confidence below the threshold is rejected.
    """
    confidence = np.sort(probabilities.max(axis=1))
    return float(np.floor(confidence[int(share * len(confidence))] * STEPS) / STEPS)


def calibration(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], bins: int = 15
) -> Calibration:
    """Compute the expected calibration error (Guo et al. 2017, section 2), in bins of equal width.

    Args:
        probabilities: (N, 10).
        labels: uint8, (N,).
        bins: number of bins over [0, 1].
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # Bins are open below and closed above, as in the paper.
    places = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    filled = [
        Bin(
            count=int((places == place).sum()),
            confidence=float(top[places == place].mean()),
            accuracy=float(right[places == place].mean()),
        )
        for place in np.unique(places)
    ]
    gaps = [one.count * abs(one.confidence - one.accuracy) for one in filled]
    return Calibration(error=sum(gaps) / len(labels), bins=tuple(filled))


def rejection(
    classifier: Classifier,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.uint8],
    pages: dict[str, list[NDArray[np.uint8]]],
) -> Rejection:
    """Count the test images and the out-of-distribution pictures that a file rejects.

    Args:
        classifier: the file.
        probabilities: of the file for the test images, (N, 10).
        labels: of the test images, uint8, (N,).
        pages: out-of-distribution pictures by kind, each uint8, (height, width).
    """
    accepted = probabilities.max(axis=1) >= classifier.threshold
    right = probabilities.argmax(axis=1) == labels
    thresholds = np.arange(0, STEPS + 1, 4) / STEPS
    curve = {"threshold": thresholds.tolist(), "test": _below(probabilities, thresholds)}
    kinds = {}
    for kind, drawn in pages.items():
        prepared = [prepare(page) for page in drawn]
        inked = np.array([one.found for one in prepared])
        seen = classifier.predict(np.stack([one.image for one in prepared]))
        seen[~inked] = 0  # `Classifier.classify` rejects a picture without ink
        alone = classifier.predict(np.stack([outliers.fitted(page) for page in drawn]))
        kinds[kind] = OodRejection(
            total=len(drawn),
            rejected=int((~inked | (seen.max(axis=1) < classifier.threshold)).sum()),
            rejected_by_threshold=int((alone.max(axis=1) < classifier.threshold).sum()),
        )
        curve[kind] = _below(seen, thresholds)
    return Rejection(
        threshold=classifier.threshold,
        test=TestRejection(
            total=len(labels),
            rejected=int((~accepted).sum()),
            accuracy_of_accepted=float(right[accepted].mean()) if accepted.any() else None,
        ),
        ood=kinds,
        curve=curve,
    )


def _below(probabilities: NDArray[np.float32], thresholds: NDArray[np.float64]) -> list[float]:
    """Return the share of answers whose confidence is below each threshold."""
    below = probabilities.max(axis=1)[:, np.newaxis] < thresholds
    return below.mean(axis=0).tolist()
