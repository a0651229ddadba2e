"""Model card of a published folder, after Mitchell et al., "Model Cards for Model Reporting"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from keras_lenet import models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Degrade
from keras_lenet.reporting import results

if TYPE_CHECKING:
    from keras_lenet.seeds import Finished

TEMPLATE = "card.md.j2"
HASHED = (".tflite", ".c")
"""Endings of the reproducible files with weights."""


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
        degraded=recipe.degrade != Degrade(),
        teachers_accuracy=teachers_accuracy,
        rejected_share=confidence.REFUSED,
        accuracy_known_to=50 * (high - low),
    )
