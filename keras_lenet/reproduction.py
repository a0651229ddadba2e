"""Systems that others have published, beside ours under the same conditions: one table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from keras_lenet import results
from keras_lenet.artifacts import Record
from keras_lenet.errors import Error
from keras_lenet.publish import Finished
from keras_lenet.recipe import Recipe

HEADER = (
    "| system | published | ours, float | ours, int8 | int8 − float | seeds | epochs | training "
    "| of the original |\n|---|---:|---:|---:|---:|---:|---:|---:|---|"
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
                "a published system, such as those in pipelines/seeds"
            )


def row(finished: list[Finished]) -> str:
    """One recipe's line of the table, in Markdown, from all of its seeds."""
    recipe = finished[0].run.recipe
    assert recipe.origin is not None  # see `check`
    published = recipe.origin.accuracy
    floats, int8s = (
        [100 * one.metrics["models"][key]["accuracy"] for one in finished]
        for key in ("keras", "int8")
    )
    losses = [quantized - exact for exact, quantized in zip(floats, int8s, strict=True)]
    cells = (
        recipe.origin.title,
        "–" if published is None else f"{published:.2%}",
        _spread(floats),
        _spread(int8s),
        f"{statistics.mean(losses):+.3f}",
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
        results.check_gates(one.metrics)


def _spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f} %" if len(values) > 1 else f"{mean} %"


def _seconds(one: Finished) -> float:
    """How long the training in float took."""
    record = Record.read(one.run.stage_folder("train"))
    if record is None:
        raise Error(f"{one.run.stage_folder('train')}: its record cannot be read")
    return record.seconds
