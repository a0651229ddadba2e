"""Model card of a published folder, after Mitchell et al., "Model Cards for Model Reporting"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from keras_lenet import models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Recipe
from keras_lenet.reporting import results

if TYPE_CHECKING:
    from keras_lenet.seeds import Finished

TEMPLATE = "card.md.j2"
HASHED = (".tflite", ".c")
"""Endings of the reproducible files with weights."""
AUGMENTATIONS = {
    "rotate": "rotation ±{:g}°",
    "shift": "shift ±{:g} pixels",
    "zoom": "zoom ±{:.0%}",
    "shear": "shear ±{:g}",
    "elastic": "elastic distortion, {:g} pixels",
    "thickness": "strokes ±{:g} pixels",
}
DEGRADATIONS = {
    "light": "other greys in {:.0%}",
    "clouds": "clouds to {:g} times full ink",
    "noise": "noise to {:g} of full ink",
    "occlusion": "grey rectangles to {:g} pixels a side",
}


def card(finished: list[Finished], chosen: Finished, table: str, source: str) -> str:
    """Return the card in Markdown.

    Args:
        finished: the runs of all seeds.
        chosen: the run whose files are published.
        table: accuracies of all seeds, in Markdown.
        source: recipe and overrides of the command line.
    """
    run, recipe, metrics = chosen.run, chosen.run.recipe, chosen.metrics
    low, high = metrics.deployed_model.interval
    teachers_accuracy = None
    if recipe.distill:
        distilled = Record.of_finished(run.stage_folder("distill"))
        teachers_accuracy = distilled.summary["validation_accuracy"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=recipe.model.name,
        title=models.find(recipe.model.name).title,
        shows=catalogue.shows(metrics.dataset),
        of_digits=metrics.of_digits,
        source=source,
        seeds=[one.run.recipe.seed for one in finished],
        recipe=recipe,
        metrics=metrics,
        hashes={
            name: digest
            for name, digest in Record.of_finished(run.stage_folder("export")).outputs.items()
            if name.endswith(HASHED)
        },
        figures=results.markdown(metrics),
        table=table,
        validation_accuracy=chosen.validation_accuracy,
        rejection_heading=results.REJECTION,
        rejection=results.rejection(metrics),
        augmentation=_augmentation(recipe),
        teachers_accuracy=teachers_accuracy,
        rejected_share=confidence.REFUSED,
        accuracy_known_to=50 * (high - low),
    )


def _augmentation(recipe: Recipe) -> str:
    """Describe the augmentation and the degradation of training images in words."""
    augment, degrade = (
        ", ".join(
            text.format(getattr(section, name))
            for name, text in words.items()
            if getattr(section, name)
        )
        for section, words in ((recipe.augment, AUGMENTATIONS), (recipe.degrade, DEGRADATIONS))
    )
    if degrade:
        degrade = f"{recipe.degrade.share:.0%} of the images degraded: {degrade}"
    return "; ".join(part for part in (augment, degrade) if part) or "none"
