"""Accuracy on corrupted test images, without and with `edge.prepare`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from keras_lenet.data.loading import stratified_mask
from keras_lenet.edge.prepare import prepare
from keras_lenet.evaluation.metrics import Corrupted, Robustness, RobustnessSummary
from keras_lenet.evaluation.scorers import Predict


def measure(
    models: dict[str, Predict],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    seed: int,
    prepared_images: int,
) -> Robustness:
    """Score models on every corruption at every severity.

    The mean corruption error is the mean over the corruptions of a model's error, summed over the
    severities and divided by the first model's (Hendrycks and Dietterich, "Benchmarking Neural
    Network Robustness to Common Corruptions and Perturbations", ICLR 2019, section 4.2).

    Args:
        models: the first model is the reference of the corruption error.
        images: uint8, (N, 28, 28).
        labels: uint8, (N,).
        seed: of the corruptions.
        prepared_images: number of the images that are also scored after `edge.prepare`, which
            takes a few milliseconds for each; stratified by class.
    """
    share = prepared_images / len(images)
    some = np.flatnonzero(stratified_mask(labels, share, seed)) if share < 1 else slice(None)
    found: dict[str, dict[str, Corrupted]] = {}
    with console.progress() as bar:
        for name in bar.track(CORRUPTIONS, description="robustness"):
            raw: dict[str, list[float]] = {model: [] for model in models}
            ready: dict[str, list[float]] = {model: [] for model in models}
            for severity in SEVERITIES:
                corrupted = corrupt(images, name, severity, seed)
                prepared = np.stack([prepare(page).image for page in corrupted[some]])
                for model, predict in models.items():
                    raw[model].append(_accuracy(predict(corrupted), labels))
                    ready[model].append(_accuracy(predict(prepared), labels[some]))
            found[name] = {
                model: Corrupted(raw=tuple(raw[model]), prepared=tuple(ready[model]))
                for model in models
            }
    return Robustness(
        images=len(images),
        prepared_images=len(labels[some]),
        severities=tuple(SEVERITIES),
        corruptions=found,
        summary={model: _summary(found, model, next(iter(models))) for model in models},
    )


def _accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def _summary(
    found: dict[str, dict[str, Corrupted]], model: str, reference: str
) -> RobustnessSummary:
    rows = [(by_model[model], by_model[reference]) for by_model in found.values()]
    errors = [(1 - np.mean(own.raw), 1 - np.mean(first.raw)) for own, first in rows]
    # A reference without errors has no ratio.
    divisible = all(first > 0 for _, first in errors)
    return RobustnessSummary(
        mean_accuracy=float(np.mean([own.raw for own, _ in rows])),
        mean_accuracy_prepared=float(np.mean([own.prepared for own, _ in rows])),
        mean_corruption_error=(
            float(np.mean([own / first for own, first in errors])) if divisible else None
        ),
    )
