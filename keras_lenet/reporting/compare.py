"""Finished evaluations side by side: what their recipes, figures and answers differ in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet import artifacts
from keras_lenet.errors import Error
from keras_lenet.evaluation import significance
from keras_lenet.evaluation.metrics import METRICS, PREDICTIONS, Metrics, Score


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation.

    Attributes:
        name: of its folder.
        settings: of its recipe, as `section.key`; none where files were evaluated.
        metrics: what was measured.
        answers: the deployed model's class for every test image, (N,).
        labels: the true ones, (N,).
    """

    name: str
    settings: dict[str, Any]
    metrics: Metrics
    answers: NDArray[np.int64]
    labels: NDArray[np.uint8]

    @property
    def deployed(self) -> Score:
        """The deployed model's score."""
        return self.metrics.deployed_model


def read(folder: Path) -> Evaluated:
    """Read a run's folder, or one that `keras-lenet evaluate --model` wrote.

    Raises:
        Error: it holds no evaluation, a damaged one, one whose record can't be read, or one of
            another schema.
    """
    of_run = (folder / "evaluate").is_dir()
    inside = folder / "evaluate" if of_run else folder
    if not (inside / METRICS).is_file():
        raise Error(
            f"{folder}: no evaluation in it; expected a folder such as runs/mnist, in which the "
            "evaluate stage has run"
        )
    recipe: dict[str, Any] = {}
    if of_run or (inside / artifacts.RECORD).exists():  # an evaluation of files has no record
        record = artifacts.Record.of_finished(inside)
        recipe = record.settings
        if damage := artifacts.damaged(inside, record.outputs):
            raise Error(f"{inside}: {damage} is missing or was changed; run evaluate again")
    metrics = Metrics.read(inside)
    try:
        # Opened here: NumPy leaves a file open that it can't read.
        with (
            (inside / PREDICTIONS).open("rb") as file,
            np.load(file, allow_pickle=False) as stored,
        ):
            answers = stored[metrics.deployed].argmax(axis=1)
            labels = stored["labels"]
        if answers.shape != labels.shape or labels.dtype != np.uint8 or not len(labels):
            raise ValueError(f"{answers.shape} answers to {labels.shape} labels of {labels.dtype}")
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise Error(f"{inside}: damaged ({error}); run evaluate again") from error
    return Evaluated(folder.name, _flat(recipe), metrics, answers, labels)


def check(runs: list[Evaluated]) -> None:
    """Refuse what has no common measure.

    Raises:
        Error: two of them have different labels.
    """
    for run in runs[1:]:
        if run.metrics.labels != runs[0].metrics.labels:
            raise Error(
                f"{run.name} has the labels {', '.join(run.metrics.labels)}, {runs[0].name} "
                f"{', '.join(runs[0].metrics.labels)}: nothing to compare"
            )


def settings(runs: list[Evaluated]) -> list[list[str]]:
    """A row for each setting in which the recipes differ: its name, and its value in each run.

    A run without a recipe, of files alone, differs in nothing.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = []
    for name in names:
        values = [json.dumps(run.settings[name]) if name in run.settings else "–" for run in runs]
        if len(set(values) - {"–"}) > 1:
            rows.append([name, *values])
    return rows


def figures(runs: list[Evaluated]) -> list[list[str]]:
    """A row for each figure of the deployed models: its name, and its value in each run."""
    rows = {
        "dataset": [f"{run.metrics.dataset}, {run.metrics.images:,} images" for run in runs],
        "model": [run.deployed.title for run in runs],
        "accuracy": [f"{run.deployed.accuracy:.2%}" for run in runs],
        "95 % interval": [
            "{:.2f} to {:.2f}".format(*(100 * end for end in run.deployed.interval)) for run in runs
        ],
        "from its float model": [f"{100 * run.deployed.difference:+.2f} pt" for run in runs],
        "calibration error": [f"{run.deployed.calibration.error:.4f}" for run in runs],
        "bytes": [f"{run.deployed.bytes:,}" for run in runs],
        "mean accuracy, corrupted": [_robustness(run) for run in runs],
        "test images refused": [_refused(run) for run in runs],
    }
    return [[name, *values] for name, values in rows.items()]


def verdicts(runs: list[Evaluated]) -> list[str]:
    """A sentence on each run beside the first, from the answers to the same images."""
    first = runs[0]
    sentences = []
    for run in runs[1:]:
        same_set = run.metrics.dataset == first.metrics.dataset
        if not same_set or not np.array_equal(run.labels, first.labels):
            sentences.append(
                f"{run.name} and {first.name} were scored on different test sets: no paired test."
            )
            continue
        pair = significance.mcnemar(run.answers, first.answers, first.labels)
        sentences.append(significance.verdict(pair, run.name, first.name, len(first.labels)))
    return sentences


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _robustness(run: Evaluated) -> str:
    found = run.metrics.robustness
    return "–" if found is None else f"{found.summary[run.metrics.deployed].mean_accuracy:.2%}"


def _refused(run: Evaluated) -> str:
    found = run.metrics.rejection
    return "–" if found is None else f"{found.test.rejected / found.test.total:.2%}"
