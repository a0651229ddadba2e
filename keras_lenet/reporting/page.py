"""Report page: one HTML file with everything in it, for the screen, the phone and paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keras_lenet import artifacts
from keras_lenet.evaluation.metrics import PREDICTIONS, Metrics
from keras_lenet.recipe import Recipe, Report
from keras_lenet.reporting import plots, sections

PAGE, TEMPLATE = "report.html", "page.html.j2"
GALLERY = 200
"""Largest number of images shown; a bad model would make a page that no browser opens."""
Predictions = Mapping[str, NDArray[Any]]
"""Arrays of `predictions.npz`."""


class RunDetails(NamedTuple):
    """Details of a run, which an evaluation of files lacks.

    Attributes:
        histories: by stage of training, the columns of its `history.csv`.
        kept: by stage of training, the epoch whose weights are kept, from 1.
        contact_sheet: augmented training images, as PNG.
        inside: filters and feature maps, as PNG by caption.
        hashes: SHA-256 by file name.
    """

    recipe: Recipe
    histories: Mapping[str, plots.History]
    kept: Mapping[str, int]
    contact_sheet: bytes
    inside: Mapping[str, bytes]
    hashes: Mapping[str, str]


class Answer(NamedTuple):
    """One model's answer to an image."""

    model: str
    name: str
    confidence: str
    right: bool


class Picture(NamedTuple):
    """A test image, its true class, and the answers of the compared models."""

    source: str
    position: int
    name: str
    answers: list[Answer]


class Mistakes(NamedTuple):
    """The compared models' mistakes, as plots and as galleries of images.

    Attributes:
        flips: number of images to which the reference and the deployed model give other classes.
        flipped: the first of them.
        wrong: number of images that the deployed model gets wrong.
        worst: those with the highest confidence.
    """

    plots: list[sections.Plot]
    titles: list[str]
    flips: int
    flipped: list[Picture]
    wrong: int
    worst: list[Picture]


def write(evaluation: Path, out: Path, run: RunDetails | None = None) -> int:
    """Write `report.html` into `out`, from an evaluation's folder; return its size in bytes."""
    with np.load(evaluation / PREDICTIONS) as stored:
        predictions = dict(stored)
    content = page(Metrics.read(evaluation), predictions, run).encode()
    artifacts.write_bytes(out / PAGE, content)
    return len(content)


def page(metrics: Metrics, predictions: Predictions, run: RunDetails | None = None) -> str:
    """Return the page as HTML, which loads nothing and is the same for the same arguments.

    A section whose figures were not measured is left out.
    """
    asked = run.recipe.data.dataset if run else metrics.dataset
    name = metrics.deployed_model.title
    if run:
        name = f"{run.recipe.name}: {run.recipe.model.name}"
    return _template().render(
        title=f"{name} on {metrics.dataset}",
        dataset=metrics.dataset,
        asked=asked if asked != metrics.dataset else None,
        verdicts=_verdicts(metrics),
        compared=bool(metrics.paired),
        figures=_key_figures(metrics),
        missed=[gate.gate for gate in metrics.gates if not gate.met],
        gates=sections.gates(metrics),
        first=[
            sections.models(metrics),
            *([sections.training(run.histories, run.kept)] if run else []),
        ],
        inside={caption: _data_uri(png) for caption, png in run.inside.items()} if run else {},
        mistakes=_mistakes(metrics, predictions, (run.recipe.report if run else Report()).mistakes),
        rest=[
            section
            for section in (
                sections.noise(metrics, of_files=run is None),
                sections.confidence(metrics),
                sections.rejection(metrics),
                sections.robustness(metrics),
                sections.speed(metrics),
            )
            if section
        ],
        contact_sheet=_data_uri(run.contact_sheet) if run else None,
        recipe=run.recipe.model_dump_json(indent=2) if run else None,
        versions=artifacts.versions(),
        hashes=run.hashes if run else None,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # only the drawings are markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _verdicts(metrics: Metrics) -> list[str]:
    """Return the comparisons, the deployed model's with the reference first; else its score."""
    wanted = metrics.deployed, metrics.reference
    pairs = sorted(metrics.paired, key=lambda pair: (pair.first, pair.second) != wanted)
    model = metrics.deployed_model
    score = f"{model.title} is right on {model.correct:,} of {model.total:,} images."
    return [pair.verdict for pair in pairs] or [score]


def _key_figures(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Return the most important figures: a name, a figure and what to compare it with."""
    deployed, reference = metrics.deployed_model, metrics.models[metrics.reference]
    low, high = deployed.interval
    interval = f"95 % interval: {100 * low:.2f} to {100 * high:.2f}"
    figures = [(f"Accuracy of {deployed.title}", f"{deployed.accuracy:.2%}", interval)]
    share = ""
    if len(sections.compared(metrics)) > 1:
        share = f"{deployed.bytes / max(reference.bytes, 1):.0%} of {reference.title}"
        differing = round((1 - deployed.agreement) * deployed.total)
        differ = f"another answer on {differing:,} of {deployed.total:,}"
        points = f"{100 * deployed.difference:+z.2f} points"
        figures.append((f"Difference from {reference.title}", points, differ))
    figures.append(("Size", f"{deployed.bytes:,} bytes", share))
    if gates := metrics.gates:
        figures.append(("Gates", f"{sum(gate.met for gate in gates)} of {len(gates)} met", ""))
    return figures


def _mistakes(metrics: Metrics, predictions: Predictions, most: int) -> Mistakes:
    titles, keys, labels = sections.titles_of(metrics), sections.compared(metrics), metrics.labels
    matrices = {key: np.array(metrics.models[key].confusion) for key in keys}
    scale = plots.most_confused(matrices.values())
    drawn = [
        sections.plot(
            f"confusion-{place}",
            f"{titles[key]}: {matrix.sum() - matrix.trace():,} of {matrix.sum():,} wrong",
            f"Confusion matrix of {titles[key]}: {_often_confused(matrix, labels)}",
            partial(plots.confusion, matrix=matrix, most=scale, labels=labels),
            (4, 4),
        )
        for place, (key, matrix) in enumerate(matrices.items())
    ]
    flips = {
        f"{titles[pair.first]} / {titles[pair.second]}": pair.differ_by_class
        for pair in metrics.paired
        if pair.differ
    }
    if flips:
        told = "; ".join(f"{pair}: {sum(counts):,}" for pair, counts in flips.items())
        caption = "Images that two models put in different classes, by class"
        draw = partial(plots.flips, counts=flips, labels=labels)
        drawn.append(sections.plot("flips", caption, told, draw))
    shown = predictions["shown"]
    scores = {key: predictions[key][shown] for key in keys}
    answers = {key: found.argmax(1) for key, found in scores.items()}
    reference, deployed = keys[0], keys[-1]
    flipped = np.flatnonzero(answers[reference] != answers[deployed])
    wrong = np.flatnonzero(answers[deployed] != predictions["labels"][shown])
    worst = wrong[np.argsort(-scores[deployed][wrong].max(1), kind="stable")[:most]]
    return Mistakes(
        drawn,
        [titles[key] for key in keys],
        len(flipped),
        _pictures(metrics, predictions, flipped[:GALLERY]),
        len(wrong),
        _pictures(metrics, predictions, worst[:GALLERY]),
    )


def _often_confused(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    mistakes = matrix - np.diag(np.diag(matrix))
    true, answer = map(int, np.unravel_index(mistakes.argmax(), mistakes.shape))
    count = mistakes[true, answer]
    if not count:
        return "no mistake"
    return f"most often, {count} times, {labels[true]} is taken for {labels[answer]}"


def _pictures(metrics: Metrics, predictions: Predictions, places: Iterable[int]) -> list[Picture]:
    """Return the pictures at `places` among the images that the evaluation kept."""
    found = []
    for place in places:
        position = int(predictions["shown"][place])
        label = int(predictions["labels"][position])
        answers = []
        for key in sections.compared(metrics):
            scores = predictions[key][position]
            answer = int(scores.argmax())
            name, confidence = metrics.labels[answer], f"{scores[answer]:.0%}"
            answers.append(Answer(metrics.models[key].title, name, confidence, answer == label))
        png = io.BytesIO()
        Image.fromarray(predictions["shown_images"][place]).save(png, "PNG", optimize=True)
        source = _data_uri(png.getvalue())
        found.append(Picture(source, position, metrics.labels[label], answers))
    return found


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
