"""Accuracy on corrupted test images, as they come and after preparation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet import console
from keras_lenet.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from keras_lenet.data.loading import stratified_mask
from keras_lenet.edge.prepare import prepare
from keras_lenet.evaluation.scorers import Predict


def measure(
    models: dict[str, Predict],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    seed: int,
    prepared_images: int,
) -> dict[str, Any]:
    """Score models on every corruption at every severity.

    Args:
        models: the first is what the others' errors are held against.
        images: uint8, (N, 28, 28).
        labels: uint8, (N,).
        seed: of the corruptions.
        prepared_images: how many of the images also go through `edge.prepare`, which takes a few
            milliseconds each; about as many of every class.

    Returns:
        By corruption and model the accuracies at severities 1 to 5, `raw` and `prepared`; and a
        `summary` by model: `mean_accuracy` and `mean_accuracy_prepared` over all of them, and
        `mean_corruption_error`, the mean over the corruptions of the model's error, summed over
        the severities, divided by the first model's (Hendrycks and Dietterich, "Benchmarking
        Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019, section
        4.2); 1 is as good as the first.
    """
    share = prepared_images / len(images)
    some = np.flatnonzero(stratified_mask(labels, share, seed)) if share < 1 else slice(None)
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {model: {"raw": [], "prepared": []} for model in models} for name in CORRUPTIONS
    }
    with console.progress() as bar:
        task = bar.add_task("robustness", total=len(CORRUPTIONS) * len(SEVERITIES))
        for name, by_model in found.items():
            for severity in SEVERITIES:
                corrupted = corrupt(images, name, severity, seed)
                prepared = np.stack([prepare(page).image for page in corrupted[some]])
                for model, predict in models.items():
                    for kind, pictures, truth in (
                        ("raw", corrupted, labels),
                        ("prepared", prepared, labels[some]),
                    ):
                        right = predict(pictures).argmax(axis=1) == truth
                        by_model[model][kind].append(float(right.mean()))
                bar.advance(task)
    return {
        "images": len(images),
        "prepared_images": len(labels[some]),
        "severities": list(SEVERITIES),
        "corruptions": found,
        "summary": {model: _summary(found, model, next(iter(models))) for model in models},
    }


def _summary(found: dict[str, Any], model: str, reference: str) -> dict[str, float | None]:
    rows = [(by_model[model], by_model[reference]) for by_model in found.values()]
    errors = [(1 - np.mean(own["raw"]), 1 - np.mean(first["raw"])) for own, first in rows]
    return {
        "mean_accuracy": float(np.mean([own["raw"] for own, _ in rows])),
        "mean_accuracy_prepared": float(np.mean([own["prepared"] for own, _ in rows])),
        # Where the first model makes no error, there is nothing to divide by.
        "mean_corruption_error": (
            float(np.mean([own / first for own, first in errors]))
            if all(first > 0 for _, first in errors)
            else None
        ),
    }
