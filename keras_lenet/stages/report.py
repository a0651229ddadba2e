"""The page of a run: table, curves, confusion matrices, augmented images, worst mistakes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from keras_lenet import artifacts, plots, results
from keras_lenet.stages import Context

PAGE = "report.md"
CURVES, MISTAKES = "training.png", "mistakes.png"
# As their stages name them; importing those would load TensorFlow for two words.
CONTACT_SHEET, CONFUSION, REJECTION = "augmentation.png", "confusion.png", "rejection.png"


def run(context: Context) -> dict[str, Any]:
    """Write `report.md` and the pictures it shows, all in one folder."""
    metrics = results.read(context.inputs["evaluate"])
    histories = {
        stage: _history(context.inputs[stage] / "history.csv") for stage in ("train", "quantize")
    }
    plots.save(plots.training_curves(histories), context.out / CURVES)
    shutil.copyfile(context.inputs["train"] / CONTACT_SHEET, context.out / CONTACT_SHEET)
    for picture in (CONFUSION, REJECTION):
        shutil.copyfile(context.inputs["evaluate"] / picture, context.out / picture)
    shown = _draw_mistakes(context, metrics)
    page = _page(context, metrics, histories, shown)
    artifacts.write_bytes(context.out / PAGE, page.encode())
    return {"mistakes_shown": shown}


def _history(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _draw_mistakes(context: Context, metrics: dict[str, Any]) -> int:
    """Draw the int8 model's most confident mistakes; returns how many."""
    with np.load(context.inputs["evaluate"] / "predictions.npz") as stored:
        shown, images = stored["shown"], stored["shown_images"]
        scores, labels = stored["int8"][shown], stored["labels"][shown]
    mistaken = scores.argmax(1) != labels
    wrong, images, scores, labels = (part[mistaken] for part in (shown, images, scores, labels))
    order = np.argsort(-scores.max(1), kind="stable")[: context.recipe.report.mistakes]
    captions = [
        f"{labels[i]} taken for {scores[i].argmax()}\n{scores[i].max():.0%}, nr. {wrong[i]}"
        for i in order
    ]
    title = f"int8, {metrics['dataset']}: the most confident mistakes"
    plots.save(plots.mistakes(images[order], captions, title), context.out / MISTAKES)
    return len(order)


def _page(
    context: Context,
    metrics: dict[str, Any],
    histories: dict[str, dict[str, list[float]]],
    shown: int,
) -> str:
    recipe = context.recipe
    note = ""
    if context.dataset != recipe.data.dataset:
        note = (
            f"**These figures are for the dataset `{context.dataset}`.** The recipe asks for "
            f"`{recipe.data.dataset}`, which could not be had.\n\n"
        )
    agreement = metrics["fake_quantized_agreement"]
    best = {stage: max(history["val_accuracy"]) for stage, history in histories.items()}
    gates = "".join(
        f"- `{gate['gate']}`: {gate['figure']:.6g}, limit {gate['limit']:.6g}: "
        f"{'met' if gate['met'] else '**missed**'}\n"
        for gate in metrics["gates"]
    )
    return f"""# {recipe.name}: {recipe.model.name} on {context.dataset}

{note}{results.markdown(metrics)}
The fake-quantized model and the int8 file give one class on {agreement:.2%} of the images.
Best validation accuracy: {best["train"]:.2%} in float, {best["quantize"]:.2%} fake-quantized.

## Gates

{gates or "None set."}

## Training

![Loss, accuracy and learning rate by epoch]({CURVES})

![Augmented training images]({CONTACT_SHEET})

## Mistakes

![Confusion matrices of the float and the int8 model]({CONFUSION})

![The {shown} most confident mistakes of the int8 model]({MISTAKES})

## What is no digit

{results.rejection(metrics)}
![Digits refused against other pictures refused, by threshold]({REJECTION})

## Recipe

```json
{recipe.model_dump_json(indent=2)}
```

Versions: {", ".join(f"{name} {version}" for name, version in artifacts.versions().items())}.
"""
