"""Systems that others have published, beside ours under the same conditions: one table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from keras_lenet.artifacts import Record
from keras_lenet.errors import Error
from keras_lenet.evaluation import gates
from keras_lenet.recipe import Recipe

if TYPE_CHECKING:
    from keras_lenet.pipeline import Finished

HEADER = (
    "| system | published | ours, float | int8, quantized after training | int8, "
    "quantization-aware | seeds | epochs | training | of the original |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|"
)


def check(recipes: Iterable[Recipe]) -> None:
    """Refuse recipes that reproduce nothing.

    Raises:
        Error: one of them has no [origin].
    """
    for recipe in recipes:
        if recipe.origin is None:
            raise Error(
                f"recipe {recipe.name} has no [origin] section: expected a recipe that reproduces "
                "a published system, such as those in pipelines/reproductions"
            )


def row(finished: list[Finished]) -> str:
    """One recipe's line of the table, in Markdown, from all of its seeds."""
    recipe = finished[0].run.recipe
    assert recipe.origin is not None  # see `check`
    published = recipe.origin.accuracy
    cells = (
        recipe.origin.title,
        "–" if published is None else f"{100 * published:.2f} %",
        *(_spread(finished, model) for model in ("keras", "int8_ptq", "int8")),
        str(len(finished)),
        str(recipe.train.epochs),
        f"{statistics.median(_seconds(one) for one in finished):.0f} s",
        recipe.origin.note,
    )
    return "| " + " | ".join(cells) + " |"


def check_gates(finished: Iterable[Finished]) -> None:
    """Hold every seed to its recipe's limits.

    Raises:
        GateError: one misses one.
    """
    for one in finished:
        gates.check(one.metrics)


def _spread(finished: list[Finished], model: str) -> str:
    """Mean and standard deviation of a model's accuracy over the seeds."""
    scores = [100 * one.metrics.models[model].accuracy for one in finished]
    mean = f"{statistics.mean(scores):.3f}"
    return f"{mean} ± {statistics.stdev(scores):.3f} %" if len(scores) > 1 else f"{mean} %"


def _seconds(one: Finished) -> float:
    """Return the duration of the training in float, in seconds."""
    return Record.of_finished(one.run.stage_folder("train")).seconds
