"""Report stage: one HTML page of a run, and its figures as PNG files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_lenet import artifacts
from keras_lenet.recipe import Recipe
from keras_lenet.reporting import page, plots
from keras_lenet.stages import Context, export, train

CURVES = "training.png"
FILTERS, FEATURE_MAPS = "filters.png", "feature_maps.png"


def run(context: Context[Recipe]) -> dict[str, Any]:
    """Write `report.html`, and the training curves, filters and feature maps as PNG files."""
    inputs, out = context.inputs, context.out
    manifest = json.loads((inputs["export"] / export.MANIFEST).read_bytes())
    model = keras.models.load_model(inputs["train"] / train.MODEL, compile=False)
    caption, kernels = plots.first_filters(model)
    outputs = plots.feature_maps(model, np.asarray(Image.open(inputs["train"] / train.EXAMPLE)))
    plots.save(plots.draw_filters(kernels), out / FILTERS)
    plots.save(plots.draw_feature_maps(outputs, manifest["labels"]), out / FEATURE_MAPS)
    histories = {stage: _history(inputs[stage] / "history.csv") for stage in ("train", "quantize")}
    kept = {
        stage: artifacts.Record.of_finished(inputs[stage]).summary["best_epoch"]
        for stage in histories
    }
    plots.save(plots.training_curves(histories, kept), out / CURVES)
    details = page.RunDetails(
        recipe=context.settings,
        training={
            "Loss, accuracy and learning rate by epoch": (out / CURVES).read_bytes(),
            "Augmented training images": (inputs["train"] / train.CONTACT_SHEET).read_bytes(),
        },
        inside={
            f"{caption}. Red weights are positive, blue negative": (out / FILTERS).read_bytes(),
            "Outputs of each layer for a validation image": (out / FEATURE_MAPS).read_bytes(),
        },
        hashes={name: described["sha256"] for name, described in manifest["files"].items()},
    )
    return {"bytes": page.write(inputs["evaluate"], out, details)}


def _history(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
