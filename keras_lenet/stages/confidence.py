"""Confidence that means something: a temperature for the logits, a threshold for the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

STEPS = 256
"""Of probability in an int8 or uint8 file; a threshold between two would be neither's."""


def calibrate(model: Any, batches: Any, labels: NDArray[np.uint8]) -> float:
    """Fit a temperature to a model's logits and divide them by it, in the last layer's weights.

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017, section 4.2. In the weights it costs the device nothing, and it changes
    no answer: of a fake-quantized layer the ranges are divided too, and so its integers stay.

    Args:
        model: of Keras 3 or tf_keras, or fake-quantized; its last layer is linear in its weights.
        batches: of validation images.
        labels: uint8, (N,): theirs, in order.

    Returns:
        The temperature.
    """
    fitted = temperature(model.predict(batches, verbose=0), labels)
    last = model.layers[-1]
    last.set_weights(
        [value / fitted if value.dtype == np.float32 else value for value in last.get_weights()]
    )
    return fitted


def temperature(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """What to divide logits (N, 10) by for the least cross-entropy against labels (N,)."""

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    # Between a tenth and ten: a model outside is not over- or underconfident but broken.
    found = minimize_scalar(cross_entropy, bounds=(-np.log(10), np.log(10)), method="bounded")
    return float(np.exp(found.x))


def threshold(probabilities: NDArray[np.float32], share: float) -> float:
    """The confidence below which an answer is refused, as a multiple of 1/256.

    The highest at which at most `share` of these answers, (N, 10), would be.
    """
    confidence = np.sort(probabilities.max(axis=1))
    return float(np.floor(confidence[int(share * len(confidence))] * STEPS) / STEPS)
