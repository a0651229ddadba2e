"""Report page: one HTML file that loads nothing, for the screen, the phone and paper."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from keras_lenet import artifacts
from keras_lenet.evaluation import quantization_noise
from keras_lenet.evaluation.metrics import PREDICTIONS, Metrics, TensorNoise
from keras_lenet.recipe import Recipe, Report
from keras_lenet.reporting import plots, results

PAGE, TEMPLATE = "report.html", "page.html.j2"
GALLERY = 200
"""Largest number of images in a gallery; browsers cannot show every mistake of a bad model."""
Predictions = Mapping[str, NDArray[Any]]
"""Arrays of `predictions.npz`."""


class RunDetails(NamedTuple):
    """Details of a run, which an evaluation of files lacks.

    Attributes:
        training: PNG files of the section on training, by caption.
        inside: PNG files of filters and feature maps, by caption.
        hashes: SHA-256 by file name.
    """

    recipe: Recipe
    training: Mapping[str, bytes]
    inside: Mapping[str, bytes]
    hashes: Mapping[str, str]


class Table(NamedTuple):
    """A table. The first column names the row; `words` are further columns of text."""

    caption: str
    header: Sequence[str]
    rows: Iterable[Sequence[str]]
    words: Sequence[str] = ()


class Picture(NamedTuple):
    """A test image, its true class, and the answers of the compared models.

    An answer is the model's title, the class, the confidence, and whether it is right.
    """

    source: str
    position: int
    name: str
    answers: list[tuple[str, str, str, bool]]


class Gallery(NamedTuple):
    """Test images below a heading and a sentence."""

    heading: str
    sentence: str
    pictures: list[Picture]


class Section(NamedTuple):
    """A section: sentences, drawings by caption, tables, galleries and a note, in this order."""

    id: str
    heading: str
    sentences: Sequence[str] = ()
    drawings: Mapping[str, str] = {}
    tables: Sequence[Table] = ()
    galleries: Sequence[Gallery] = ()
    note: str = ""


def write(evaluation: Path, out: Path, run: RunDetails | None = None) -> int:
    """Write `report.html` into `out`, from an evaluation's folder; return its size in bytes."""
    with np.load(evaluation / PREDICTIONS) as stored:
        predictions = dict(stored)
    content = page(Metrics.read(evaluation), predictions, run).encode()
    artifacts.write_bytes(out / PAGE, content)
    return len(content)


def page(metrics: Metrics, predictions: Predictions, run: RunDetails | None = None) -> str:
    """Return the page as HTML; the same arguments give the same page.

    A section whose figures were not measured is left out.
    """
    model = metrics.deployed_model
    name, asked, mistakes = model.title, metrics.dataset, Report().mistakes
    if run:
        name = f"{run.recipe.name}: {run.recipe.model.name}"
        asked, mistakes = run.recipe.data.dataset, run.recipe.report.mistakes
    sections = [
        _models(metrics),
        _of_pictures("training", "Training", run.training if run else {}),
        _of_pictures("inside", "Filters and feature maps", run.inside if run else {}),
        _mistakes(metrics, predictions, mistakes),
        _noise(metrics),
        _confidence(metrics),
        _rejection(metrics),
        _robustness(metrics),
        _speed(metrics),
        _origin(run),
    ]
    return _template().render(
        title=f"{name} on {metrics.dataset}",
        dataset=metrics.dataset,
        asked=asked if asked != metrics.dataset else None,
        verdicts=[pair.verdict for pair in metrics.paired]
        or [f"{model.title} is right on {model.correct:,} of {model.total:,} images."],
        compared=bool(metrics.paired),
        figures=_key_figures(metrics),
        missed=[gate.gate for gate in metrics.gates if not gate.met],
        gates=_gates(metrics),
        sections=[section for section in sections if section],
        recipe=run.recipe.model_dump_json(indent=2) if run else None,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _drawing(figure: Figure) -> str:
    return _data_uri(plots.png(figure))


def _key_figures(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Return the most important figures: a name, a figure and its context."""
    deployed, reference = metrics.deployed_model, metrics.models[metrics.reference]
    low, high = deployed.interval
    interval = f"95 % interval: {100 * low:.2f} to {100 * high:.2f}"
    figures = [(f"Accuracy of {deployed.title}", f"{deployed.accuracy:.2%}", interval)]
    share = ""
    if len(metrics.compared) > 1:
        share = f"{deployed.bytes / max(reference.bytes, 1):.0%} of {reference.title}"
        differing = round((1 - deployed.agreement) * deployed.total)
        differ = f"another answer on {differing:,} of {deployed.total:,}"
        points = f"{100 * deployed.difference:+z.2f} points"
        figures.append((f"Difference from {reference.title}", points, differ))
    figures.append(("Size", f"{deployed.bytes:,} bytes", share))
    if gates := metrics.gates:
        figures.append(("Gates", f"{sum(gate.met for gate in gates)} of {len(gates)} met", ""))
    return figures


def _gates(metrics: Metrics) -> Table | None:
    rows = [
        [
            gate.gate,
            "✓ met" if gate.met else "✗ missed",
            f"{gate.figure:z.6g}",
            f"{'at least' if gate.gate.startswith('min_') else 'at most'} {gate.limit:.6g}",
        ]
        for gate in metrics.gates
    ]
    header = ("gate", "verdict", "figure", "limit")
    return Table("Gates", header, rows, ["verdict"]) if rows else None


def _models(metrics: Metrics) -> Section:
    sentences = []
    if metrics.fake_quantized_agreement is not None:
        sentences = [
            "The fake-quantized model and the int8 file give the same class on "
            f"{metrics.fake_quantized_agreement:.2%} of the images."
        ]
    rows = results.rows(metrics)
    table = Table("Accuracy, size and time", results.HEADER, rows, ["kernel set"])
    note = results.caption(metrics)
    return Section("models", "Models", sentences, tables=[table], note=note)


def _of_pictures(id: str, heading: str, pictures: Mapping[str, bytes]) -> Section | None:
    drawings = {caption: _data_uri(png) for caption, png in pictures.items()}
    return Section(id, heading, drawings=drawings) if drawings else None


def _mistakes(metrics: Metrics, predictions: Predictions, most: int) -> Section:
    """Return confusion matrices, the images that two models classify differently, and mistakes."""
    shown, title = predictions["shown"], metrics.deployed_model.title
    scores = {key: predictions[key][shown] for key in metrics.compared}
    answers = {key: found.argmax(axis=1) for key, found in scores.items()}
    galleries = []
    if len(metrics.compared) > 1:
        flipped = np.flatnonzero(answers[metrics.reference] != answers[metrics.deployed])
        pictures = _pictures(metrics, predictions, flipped[:GALLERY])
        galleries.append(
            Gallery(
                f"Disagreement of {metrics.models[metrics.reference].title} and {title}",
                f"{len(pictures)} of {len(flipped):,} images, in the order of the test set.",
                pictures,
            )
        )
    wrong = np.flatnonzero(answers[metrics.deployed] != predictions["labels"][shown])
    confidence = scores[metrics.deployed][wrong].max(axis=1)
    worst = wrong[np.argsort(-confidence, kind="stable")[:most]]
    pictures = _pictures(metrics, predictions, worst[:GALLERY])
    sentence = f"{len(pictures)} of {len(wrong):,} mistakes, the most confident first."
    galleries.append(Gallery(f"The most confident mistakes of {title}", sentence, pictures))
    drawings = {"Confusion matrices": _drawing(plots.confusion_matrices(metrics))}
    return Section("mistakes", "Mistakes", drawings=drawings, galleries=galleries)


def _pictures(metrics: Metrics, predictions: Predictions, places: Iterable[int]) -> list[Picture]:
    """Return the pictures at `places` among the images that the evaluation kept."""
    found = []
    for place in places:
        position = int(predictions["shown"][place])
        label = int(predictions["labels"][position])
        answers = []
        for key in metrics.compared:
            scores = predictions[key][position]
            answer = int(scores.argmax())
            name, confidence = metrics.labels[answer], f"{scores[answer]:.0%}"
            answers.append((metrics.models[key].title, name, confidence, answer == label))
        png = io.BytesIO()
        Image.fromarray(predictions["shown_images"][place]).save(png, "PNG", optimize=True)
        found.append(Picture(_data_uri(png.getvalue()), position, metrics.labels[label], answers))
    return found


def _noise(metrics: Metrics) -> Section | None:
    if not metrics.quantization_noise:
        return None
    traced = {metrics.models[key].title: rows for key, rows in metrics.quantization_noise.items()}
    note = (
        "The output of every op on test images, compared with the same op of the float file. SQNR "
        "is the signal to quantization noise ratio; 6 dB are one bit. Losses count from "
        f"{quantization_noise.EIGHT_BITS:g} dB, about the SQNR of 8 bits; a negative loss is a "
        "gain. Saturated: the share of values at an end of the range. Between files of different "
        "training, the difference of the weights counts as noise."
    )
    return Section(
        "layers",
        "Quantization noise",
        [_greatest_loss(title, rows) for title, rows in traced.items()],
        {"Signal to quantization noise ratio": _drawing(plots.noise(metrics))},
        [_noise_table(title, rows) for title, rows in traced.items()],
        note=note,
    )


def _greatest_loss(title: str, rows: Sequence[TensorNoise]) -> str:
    position = quantization_noise.worst(rows)
    if position is None:
        return f"{title} loses nothing."
    return (
        f"{title} loses the most in {quantization_noise.numbered(rows)[position]}: "
        f"{rows[position].drop_db:.1f} dB, down to {rows[position].sqnr_db:.1f} dB."
    )


def _noise_table(title: str, rows: Sequence[TensorNoise]) -> Table:
    header = ("op", "values", "SQNR, dB", "loss, dB", "largest error", "saturated", "range")
    cells = [
        [
            name,
            " × ".join(f"{side:,}" for side in row.shape),
            "" if row.sqnr_db is None else f"{row.sqnr_db:z.1f}",
            "" if row.drop_db is None else f"{row.drop_db:z.1f}",
            f"{row.max_error:.3g}",
            f"{row.saturated:.2%}",
            " to ".join(f"{end:.3g}" for end in row.range or ()),
        ]
        for name, row in zip(quantization_noise.numbered(rows), rows, strict=True)
    ]
    return Table(title, header, cells)


def _confidence(metrics: Metrics) -> Section:
    rows = [[one.title, f"{100 * one.calibration.error:.2f}"] for one in metrics.models.values()]
    table = Table("Expected calibration error", ("model", "ECE, points"), rows)
    drawings = {"Accuracy by confidence": _drawing(plots.reliability(metrics))}
    note = (
        "The expected calibration error (ECE) is the mean distance of confidence and accuracy. On "
        "the dotted diagonal they are equal. Bars are 95 % intervals; those of few images are long."
    )
    return Section("confidence", "Confidence", (), drawings, [table], note=note)


def _rejection(metrics: Metrics) -> Section | None:
    if metrics.rejection is None:
        return None
    table = Table(
        f"Pictures that {metrics.deployed_model.title} rejects",
        results.REJECTION_HEADER,
        results.rejection_rows(metrics),
    )
    drawings = {"Rejection by confidence threshold": _drawing(plots.rejection(metrics.rejection))}
    note = results.rejection_caption(metrics)
    return Section("rejection", results.REJECTION, (), drawings, [table], note=note)


def _robustness(metrics: Metrics) -> Section | None:
    found, models, deployed = metrics.robustness, metrics.models, metrics.deployed
    if found is None:
        return None
    summary = [
        [
            models[key].title,
            f"{one.mean_accuracy:.1%}",
            f"{one.mean_accuracy_prepared:.1%}",
            "–" if one.mean_corruption_error is None else f"{one.mean_corruption_error:.3f}",
        ]
        for key, one in found.summary.items()
    ]
    rows = []
    for name in plots.hardest_last(metrics):
        ours = found.corruptions[name][deployed]
        shown = [*ours.raw, statistics.mean(ours.raw), statistics.mean(ours.prepared)]
        rows.append([name.replace("_", " "), *(f"{one:.1%}" for one in shown)])
    severities = (f"severity {one}" for one in found.severities)
    tables = [
        Table(
            "Mean over all corruptions and severities",
            ("model", "as they come", "prepared", "mean corruption error"),
            summary,
        ),
        Table(
            f"{models[deployed].title}, images as they come; last column: prepared",
            ("corruption", *severities, "mean", "prepared"),
            rows,
        ),
    ]
    note = (
        f"{found.images:,} test images, corrupted in every way and severity; "
        f"{found.prepared_images} of them, of every class, are also prepared as a photo would be. "
        "Mean corruption error: the mean over the corruptions of the error divided by the error "
        f"of {models[next(iter(found.summary))].title}."
    )
    if not metrics.of_digits:
        note += " Preparation is made for digits: it fits every image into 20×20 pixels."
    drawings = {"Accuracy on corrupted images": _drawing(plots.robustness(metrics))}
    return Section("robustness", "Robustness", (), drawings, tables, note=note)


def _speed(metrics: Metrics) -> Section:
    """Return the times of all models, and the deployed model's memory."""
    timings, arena = metrics.timings, metrics.arena
    header = ("model", "kernel set", "median, µs", "95th percentile, µs", "images/s in batches")
    rows = [
        [
            metrics.models[key].title,
            timing.kernels,
            f"{timing.p50_us:,.1f}",
            f"{timing.p95_us:,.1f}",
            f"{timing.batched_images_per_second:,}",
        ]
        for key, timing in timings.models.items()
    ]
    sentences = []
    if arena:
        text = f"Arena, the memory on a microcontroller: {arena.bytes:,} bytes. {arena.how}."
        sentences = [text]
    table = Table("Time of one image, and images a second", header, rows, ["kernel set"])
    note = (
        f"One image at a time, the Python call included, on {timings.cpu}. Other work on the "
        "machine makes times longer: trust ratios more than times."
    )
    return Section("speed", "Speed and memory", sentences, tables=[table], note=note)


def _origin(run: RunDetails | None) -> Section:
    tables = [Table("Versions", ("package", "version"), artifacts.versions().items(), ["version"])]
    if run:
        files = Table("SHA-256 of the files", ("file", "SHA-256"), run.hashes.items(), ["SHA-256"])
        tables.insert(0, files)
    return Section("origin", "Origin", tables=tables)
