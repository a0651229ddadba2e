"""Report stage: one HTML page of a run, and its plots as PNG files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_lenet import artifacts
from keras_lenet.recipe import Recipe
from keras_lenet.reporting import feature_maps, page, plots
from keras_lenet.stages import Context, export, train

CURVES = "training.png"
FILTERS, FEATURE_MAPS = "filters.png", "feature_maps.png"


def run(context: Context[Recipe]) -> dict[str, Any]:
    """Write `report.html`, and the training curves, filters and feature maps as PNG files."""
    inputs = context.inputs
    histories = {stage: _history(inputs[stage] / "history.csv") for stage in ("train", "quantize")}
    kept = {
        stage: artifacts.Record.of_finished(inputs[stage]).summary["best_epoch"]
        for stage in histories
    }
    plots.save(plots.training_curves(histories, kept), context.out / CURVES)
    manifest = json.loads((inputs["export"] / export.MANIFEST).read_bytes())
    details = page.RunDetails(
        recipe=context.settings,
        histories=histories,
        kept=kept,
        contact_sheet=(inputs["train"] / train.CONTACT_SHEET).read_bytes(),
        inside=_inside(inputs["train"], manifest["labels"], context.out),
        hashes={name: described["sha256"] for name, described in manifest["files"].items()},
    )
    return {"bytes": page.write(inputs["evaluate"], context.out, details)}


def _history(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _inside(trained: Path, labels: Sequence[str], out: Path) -> dict[str, bytes]:
    """Draw the first layer's weights and the feature maps of an image; captions and PNG files."""
    model = keras.models.load_model(trained / train.MODEL, compile=False)
    caption, kernels = feature_maps.first_filters(model)
    plots.save(feature_maps.draw_filters(kernels), out / FILTERS)
    outputs = feature_maps.feature_maps(model, np.asarray(Image.open(trained / train.EXAMPLE)))
    plots.save(feature_maps.draw_feature_maps(outputs, labels), out / FEATURE_MAPS)
    return {
        f"{caption}. Red adds where there is ink, blue takes away": (out / FILTERS).read_bytes(),
        "A validation image, and what each layer makes of it": (out / FEATURE_MAPS).read_bytes(),
    }
