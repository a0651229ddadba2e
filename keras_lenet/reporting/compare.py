"""Finished evaluations side by side, and published systems beside their reproductions."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet import artifacts
from keras_lenet.errors import Error
from keras_lenet.evaluation.metrics import METRICS, PREDICTIONS, McNemar, Metrics
from keras_lenet.reporting import results
from keras_lenet.reporting.results import Finished

REPRODUCTION = ("system", "published", "ours, float", "int8, PTQ", "int8, QAT", "seeds", "epochs",
                "training", "note on the original")  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation.

    Attributes:
        name: of its folder.
        settings: of its recipe, as `section.key`; empty for an evaluation of files.
        metrics: its figures.
        answers: the deployed model's class for every test image, (N,).
        labels: true classes, (N,).
    """

    name: str
    settings: dict[str, Any]
    metrics: Metrics
    answers: NDArray[np.int64]
    labels: NDArray[np.uint8]


def read(folder: Path) -> Evaluated:
    """Read a run's folder, or a folder that `keras-lenet evaluate --model` wrote.

    Raises:
        Error: the folder has no evaluation, or a damaged evaluation.
    """
    of_run = (folder / "evaluate").is_dir()
    inside = folder / "evaluate" if of_run else folder
    if not (inside / METRICS).is_file():
        raise Error(
            f"{folder}: no evaluation in it; expected a folder such as runs/mnist, in which the "
            "evaluate stage has run"
        )
    settings: dict[str, Any] = {}
    if of_run or (inside / artifacts.RECORD).exists():  # an evaluation of files has no record
        record = artifacts.Record.of_finished(inside)
        settings = record.settings
        if damage := artifacts.damaged(inside, record.outputs):
            raise Error(f"{inside}: {damage} is missing or was changed; run evaluate again")
    metrics = Metrics.read(inside)
    try:
        # NumPy does not close a file that it cannot read.
        with (
            (inside / PREDICTIONS).open("rb") as file,
            np.load(file, allow_pickle=False) as stored,
        ):
            answers = stored[metrics.deployed].argmax(axis=1)
            labels = stored["labels"]
        if answers.shape != labels.shape:
            raise ValueError(f"{answers.shape} answers to {labels.shape} labels")
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise Error(f"{inside}: damaged ({error}); run evaluate again") from error
    return Evaluated(folder.name, _flat(settings), metrics, answers, labels)


def settings(runs: list[Evaluated]) -> list[list[str]]:
    """Return a row for each setting in which the recipes differ: its name and its values."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = []
    for name in names:
        values = [json.dumps(run.settings[name]) if name in run.settings else "–" for run in runs]
        if len(set(values) - {"–"}) > 1:
            rows.append([name, *values])
    return rows


def figures(runs: list[Evaluated]) -> list[list[str]]:
    """Return a row for each figure of the deployed models: its name and its values."""
    columns = [_figures(run.metrics) for run in runs]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _figures(metrics: Metrics) -> dict[str, str]:
    model, robustness, rejection = metrics.deployed_model, metrics.robustness, metrics.rejection
    low, high = model.interval
    corrupted = rejected = "–"
    if robustness:
        corrupted = f"{robustness.summary[metrics.deployed].mean_accuracy:.2%}"
    if rejection:
        rejected = f"{rejection.test.rejected / rejection.test.total:.2%}"
    return {
        "dataset": f"{metrics.dataset}, {metrics.images:,} images",
        "model": model.title,
        "accuracy": f"{model.accuracy:.2%}",
        "95 % interval": f"{100 * low:.2f} to {100 * high:.2f}",
        "difference from float": f"{100 * model.difference:+.2f} pt",
        "calibration error": f"{model.calibration.error:.4f}",
        "bytes": f"{model.bytes:,}",
        "mean accuracy, corrupted": corrupted,
        "test images rejected": rejected,
    }


def verdicts(runs: list[Evaluated]) -> list[str]:
    """Return a sentence on each run and the first, from the answers to the same images."""
    first = runs[0]
    sentences = []
    for run in runs[1:]:
        same_set = run.metrics.dataset == first.metrics.dataset
        if not same_set or not np.array_equal(run.labels, first.labels):
            sentences.append(
                f"{run.name} and {first.name} were scored on different test sets: no paired test."
            )
            continue
        pair = McNemar.of(run.answers, first.answers, first.labels)
        sentences.append(pair.in_words(run.name, first.name, len(first.labels)))
    return sentences


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def reproductions(systems: list[list[Finished]]) -> str:
    """Return published systems beside ours, as a Markdown table.

    Args:
        systems: of each recipe with an `[origin]`, the runs of all seeds.
    """
    rows = []
    for finished in systems:
        recipe = finished[0].recipe
        assert recipe.origin is not None
        published = recipe.origin.accuracy
        seconds = [artifacts.Record.of_finished(one.folders["train"]).seconds for one in finished]
        rows.append(
            [
                recipe.origin.title,
                "–" if published is None else f"{100 * published:.2f} %",
                *(_spread(finished, model) for model in ("keras", "int8_ptq", "int8")),
                str(len(finished)),
                str(recipe.train.epochs),
                f"{statistics.median(seconds):.0f} s",
                recipe.origin.note,
            ]
        )
    return results.markdown_table(REPRODUCTION, rows, REPRODUCTION[1:-1])


def _spread(finished: list[Finished], model: str) -> str:
    """Return the mean and the standard deviation of a model's accuracy over the seeds."""
    scores = [100 * one.metrics.models[model].accuracy for one in finished]
    mean = f"{statistics.mean(scores):.3f}"
    return f"{mean} ± {statistics.stdev(scores):.3f} %" if len(scores) > 1 else f"{mean} %"
