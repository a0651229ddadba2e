"""The page of a run: one HTML file with everything in it, for the screen, the phone and paper."""

from __future__ import annotations

import base64
import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from keras_lenet import artifacts, console
from keras_lenet.evaluation import quantization_noise, results, significance
from keras_lenet.recipe import Recipe, Report
from keras_lenet.reporting import plots
from keras_lenet.stages import Context
from keras_lenet.tflite import contract

PAGE, TEMPLATE = "report.html", "report.html.j2"
CURVES = "training.png"
# As their stages name them; importing those would load TensorFlow for a few words.
CONTACT_SHEET = "augmentation.png"
MODEL, EXAMPLE = "model.keras", "example.png"
FILTERS, FEATURE_MAPS = "filters.png", "feature_maps.png"
GALLERY = 200
"""Images shown at most; a model that is no good would make a page that no browser opens."""


class Table(NamedTuple):
    """A table of the page. The first column names the row; `words` are further columns of text."""

    caption: str
    header: Sequence[str]
    rows: list[list[str]]
    words: Sequence[str] = ()


class Plot(NamedTuple):
    """A drawing, its caption, and what it says to those who can't see it."""

    caption: str
    alternative: str
    svg: Markup


class Answer(NamedTuple):
    """What one model takes an image for."""

    model: str
    name: str
    confidence: str
    right: bool


class Picture(NamedTuple):
    """A test image, what it is, and what the models take it for."""

    source: str
    position: int
    name: str
    answers: list[Answer]


def run(context: Context[Recipe]) -> dict[str, Any]:
    """Write `report.html`, and some of its pictures as files: curves, filters and feature maps."""
    inputs = context.inputs
    histories = {stage: _history(inputs[stage] / "history.csv") for stage in ("train", "quantize")}
    kept = {
        stage: artifacts.Record.of_finished(inputs[stage]).summary["best_epoch"]
        for stage in histories
    }
    plots.save(plots.training_curves(histories, kept), context.out / CURVES)
    manifest = contract.Manifest.read(inputs["export"])
    seen = _inside(inputs["train"], list(manifest.labels), context.out)
    written = page(
        *_evaluation(inputs["evaluate"]),
        recipe=context.settings,
        histories=histories,
        kept=kept,
        contact_sheet=(inputs["train"] / CONTACT_SHEET).read_bytes(),
        inside=seen,
        hashes={name: described.sha256 for name, described in manifest.files.items()},
    )
    artifacts.write_bytes(context.out / PAGE, written.encode())
    return {"bytes": len(written.encode())}


def _inside(trained: Path, labels: list[str], out: Path) -> dict[str, bytes]:
    """Draw the first layer's weights, and a validation image on its way; captions and PNG files."""
    with console.without_information():  # slow to import, and for these pictures alone
        import keras

        from keras_lenet.reporting import feature_maps

    model = keras.models.load_model(trained / MODEL, compile=False)
    caption, kernels = feature_maps.first_filters(model)
    plots.save(plots.filters(kernels), out / FILTERS)
    drawn = {f"{caption}. Red adds where there is ink, blue takes away": FILTERS}
    if (trained / EXAMPLE).exists():  # a run of an earlier version has none
        outputs = feature_maps.feature_maps(model, np.asarray(Image.open(trained / EXAMPLE)))
        plots.save(plots.feature_maps(outputs, labels), out / FEATURE_MAPS)
        drawn["A validation image, and what each layer makes of it"] = FEATURE_MAPS
    return {caption: (out / name).read_bytes() for caption, name in drawn.items()}


def of_files(folder: Path) -> None:
    """Write `report.html` beside the evaluation of model files, which have no recipe."""
    artifacts.write_bytes(folder / PAGE, page(*_evaluation(folder)).encode())


def _evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The metrics and the arrays that an evaluation left in `folder`."""
    with np.load(folder / results.PREDICTIONS) as stored:
        return results.read(folder), dict(stored)


def page(
    metrics: dict[str, Any],
    predictions: Mapping[str, NDArray[Any]],
    *,
    recipe: Recipe | None = None,
    histories: dict[str, dict[str, list[float]]] | None = None,
    kept: Mapping[str, int] | None = None,
    contact_sheet: bytes | None = None,
    inside: dict[str, bytes] | None = None,
    hashes: dict[str, str] | None = None,
) -> str:
    """Make the page; what is not given, or was not measured, is left out.

    Args:
        metrics: what an evaluation found.
        predictions: the arrays of its `predictions.npz`.
        recipe: the recipe of the run.
        histories: by stage of training, the columns of its `history.csv`.
        kept: of each, the epoch whose weights are kept, from 1.
        contact_sheet: augmented training images, as PNG.
        inside: what the network has learnt to see, as PNG by caption.
        hashes: SHA-256 by name of file.

    Returns:
        HTML that asks for nothing from anywhere, and is the same for the same arguments.
    """
    dataset, titles = metrics["dataset"], _titles(metrics)
    asked = recipe.data.dataset if recipe else dataset
    name = f"{recipe.name}: {recipe.model.name}" if recipe else titles[metrics["deployed"]]
    return _template().render(
        title=f"{name} on {dataset}",
        dataset=dataset,
        asked=asked if asked != dataset else None,
        verdicts=_verdicts(metrics),
        compared=bool(metrics["paired"]),
        figures=_key_figures(metrics),
        missed=[gate["gate"] for gate in metrics["gates"] if not gate["met"]],
        gates=_gates(metrics),
        models=Table(
            "Accuracy, size and time", results.HEADER, results.rows(metrics), ["kernel set"]
        ),
        models_note=results.caption(metrics),
        agreement=metrics.get("fake_quantized_agreement"),
        training=_training(histories, kept) if histories and kept else None,
        mistakes=_mistakes(metrics, predictions, (recipe.report if recipe else Report()).mistakes),
        layers=_layers(metrics) if metrics.get("layers") else None,
        confidence=_confidence(metrics),
        rejection=_rejection(metrics) if "rejection" in metrics else None,
        robustness=_robustness(metrics) if "robustness" in metrics else None,
        speed=_speed(metrics),
        contact_sheet=_data_uri(contact_sheet) if contact_sheet else None,
        inside={caption: _data_uri(png) for caption, png in (inside or {}).items()},
        recipe=recipe.model_dump_json(indent=2) if recipe else None,
        versions=artifacts.versions(),
        hashes=hashes,
    )


@cache
def _template() -> jinja2.Template:
    """The page's template: all that is read from files is escaped, but for plots.svg()'s."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _history(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _titles(metrics: dict[str, Any]) -> dict[str, str]:
    return {key: model["title"] for key, model in metrics["models"].items()}


def _compared(metrics: dict[str, Any]) -> list[str]:
    """The keys of the reference and of the deployed model, which may be one."""
    return list(dict.fromkeys((metrics["reference"], metrics["deployed"])))


def _verdicts(metrics: dict[str, Any]) -> list[str]:
    """That of the deployed model against the reference first; of a lone model its score."""
    wanted = metrics["deployed"], metrics["reference"]
    pairs = sorted(metrics["paired"], key=lambda pair: (pair["first"], pair["second"]) != wanted)
    model = metrics["models"][metrics["deployed"]]
    score = f"{model['title']} is right on {model['correct']:,} of {model['total']:,} images."
    return [pair["verdict"] for pair in pairs] or [score]


def _key_figures(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What to know first: a name, a figure and what to hold it against."""
    deployed, reference = (metrics["models"][metrics[key]] for key in ("deployed", "reference"))
    low, high = deployed["interval"]
    interval = f"95 % interval: {100 * low:.2f} to {100 * high:.2f}"
    figures = [(f"Accuracy of {deployed['title']}", f"{deployed['accuracy']:.2%}", interval)]
    share = ""
    if len(_compared(metrics)) > 1:
        share = f"{deployed['bytes'] / reference['bytes']:.0%} of {reference['title']}"
        total = deployed["total"]
        differ = f"another answer on {round((1 - deployed['agreement']) * total):,} of {total:,}"
        points = f"{100 * deployed['difference']:+z.2f} points"
        figures.append((f"Difference from {reference['title']}", points, differ))
    figures.append(("Size", f"{deployed['bytes']:,} bytes", share))
    if gates := metrics["gates"]:
        met = sum(gate["met"] for gate in gates)
        figures.append(("Gates", f"{met} of {len(gates)} met", ""))
    return figures


def _gates(metrics: dict[str, Any]) -> Table | None:
    rows = [
        [
            gate["gate"],
            "✓ met" if gate["met"] else "✗ missed",
            f"{gate['figure']:z.6g}",
            f"{'at least' if gate['gate'].startswith('min_') else 'at most'} {gate['limit']:.6g}",
        ]
        for gate in metrics["gates"]
    ]
    return (
        Table("Gates", ("gate", "verdict", "figure", "limit"), rows, ["verdict"]) if rows else None
    )


def _training(
    histories: dict[str, dict[str, list[float]]], kept: Mapping[str, int]
) -> dict[str, Any]:
    drawn = [
        _plot(
            f"curve-{stage}-{key}",
            f"{stage}: {title}",
            f"{title} of {stage} by epoch, from {history[key][0]:.3g} to {history[key][-1]:.3g}",
            partial(plots.curve, history=history, key=key, kept=kept[stage]),
            (3.3, 2.5),
        )
        for stage, history in histories.items()
        for key, title in plots.CURVES.items()
    ]
    accuracies = [
        f"{histories[stage]['val_accuracy'][epoch - 1]:.2%} in {stage}"
        for stage, epoch in kept.items()
    ]
    return {"plots": drawn, "kept": ", ".join(accuracies)}


def _mistakes(
    metrics: dict[str, Any], predictions: Mapping[str, NDArray[Any]], most: int
) -> dict[str, Any]:
    titles, keys, labels = _titles(metrics), _compared(metrics), metrics["labels"]
    matrices = {key: np.array(metrics["models"][key]["confusion"]) for key in keys}
    scale = plots.most_confused(matrices.values())
    drawn = [
        _plot(
            f"confusion-{place}",
            f"{titles[key]}: {matrix.sum() - matrix.trace():,} of {matrix.sum():,} wrong",
            f"Confusion matrix of {titles[key]}: {_often_confused(matrix, labels)}",
            partial(plots.confusion, matrix=matrix, most=scale, labels=labels),
            (4, 4),
        )
        for place, (key, matrix) in enumerate(matrices.items())
    ]
    flips = {
        f"{titles[pair['first']]} / {titles[pair['second']]}": pair["differ_by_class"]
        for pair in metrics["paired"]
        if pair["differ"]
    }
    if flips:
        told = "; ".join(f"{pair}: {sum(counts):,}" for pair, counts in flips.items())
        caption = "Images that two models put in different classes, by class"
        drawn.append(
            _plot("flips", caption, told, partial(plots.flips, counts=flips, labels=labels))
        )
    shown = predictions["shown"]
    scores = {key: predictions[key][shown] for key in keys}
    answers = {key: found.argmax(1) for key, found in scores.items()}
    reference, deployed = keys[0], keys[-1]
    flipped = np.flatnonzero(answers[reference] != answers[deployed])
    wrong = np.flatnonzero(answers[deployed] != predictions["labels"][shown])
    worst = wrong[np.argsort(-scores[deployed][wrong].max(1), kind="stable")[:most]]
    pictures = partial(_pictures, metrics, predictions)
    return {
        "plots": drawn,
        "titles": [titles[key] for key in keys],
        "flips": len(flipped),
        "flipped": pictures(flipped[:GALLERY]),
        "wrong": len(wrong),
        "worst": pictures(worst[:GALLERY]),
    }


def _often_confused(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    mistakes = matrix - np.diag(np.diag(matrix))
    true, answer = map(int, np.unravel_index(mistakes.argmax(), mistakes.shape))
    count = mistakes[true, answer]
    if not count:
        return "no mistake"
    return f"most often, {count} times, {labels[true]} is taken for {labels[answer]}"


def _pictures(
    metrics: dict[str, Any], predictions: Mapping[str, NDArray[Any]], places: Iterable[int]
) -> list[Picture]:
    """Those at `places` among the images that the evaluation kept."""
    found = []
    for place in places:
        position = int(predictions["shown"][place])
        label = int(predictions["labels"][position])
        answers = []
        for key in _compared(metrics):
            scores = predictions[key][position]
            answer = int(scores.argmax())
            title = metrics["models"][key]["title"]
            name, confidence = metrics["labels"][answer], f"{scores[answer]:.0%}"
            answers.append(Answer(title, name, confidence, answer == label))
        png = io.BytesIO()
        Image.fromarray(predictions["shown_images"][place]).save(png, "PNG", optimize=True)
        source = _data_uri(png.getvalue())
        found.append(Picture(source, position, metrics["labels"][label], answers))
    return found


def _layers(metrics: dict[str, Any]) -> dict[str, Any]:
    titles, traced = _titles(metrics), metrics["layers"]
    header = (
        "op", "values", "SQNR, dB", "lost here, dB", "largest error", "saturated", "range"
    )  # fmt: skip
    tables, sentences = [], []
    for key, rows in traced.items():
        names, position = quantization_noise.numbered(rows), quantization_noise.worst(rows)
        sentences.append(
            f"Along {titles[key]} nothing is lost."
            if position is None
            else f"Along {titles[key]} the most is lost after {names[position]}: "
            f"{rows[position]['drop_db']:.1f} dB, down to {rows[position]['sqnr_db']:.1f} dB."
        )
        cells = [
            [
                name,
                " × ".join(f"{side:,}" for side in row["shape"]),
                _decibels(row["sqnr_db"]),
                _decibels(row["drop_db"]),
                f"{row['max_error']:.3g}",
                f"{row['saturated']:.2%}",
                " to ".join(f"{end:.3g}" for end in row["range"] or ()),
            ]
            for name, row in zip(names, rows, strict=True)
        ]
        tables.append(Table(titles[key], header, cells))
    # Only files of one architecture are traced: they have the same ops.
    first = next(iter(traced.values()))
    names = quantization_noise.numbered(first)
    ratios = {titles[key]: [row["sqnr_db"] for row in rows] for key, rows in traced.items()}
    weighted = [position for position, row in enumerate(first) if row["channels"]]
    extremes = {
        titles[key]: [rows[position]["channels"] for position in weighted]
        for key, rows in traced.items()
    }
    ops = [names[position] for position in weighted]
    drawn = [
        _plot(
            "noise",
            "Signal to quantization noise ratio along the network",
            " ".join(sentences),
            partial(plots.signal_to_noise, ratios=ratios, ops=names),
            (4, 3.8),
        ),
        _plot(
            "channels",
            "Weight ranges: the greatest absolute weight of each output channel",
            f"A point for each output channel of {', '.join(ops)}",
            partial(plots.channel_ranges, extremes=extremes, ops=ops),
            (4, 3.8),
        ),
    ]
    return {
        "sentences": sentences,
        "plots": drawn,
        "tables": tables,
        "bits": quantization_noise.EIGHT_BITS,
    }


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:z.1f}"


def _confidence(metrics: dict[str, Any]) -> dict[str, Any]:
    models, titles = metrics["models"], _titles(metrics)
    errors = {key: model["calibration"]["error"] for key, model in models.items()}
    rows = [[titles[key], f"{100 * error:.2f}"] for key, error in errors.items()]
    drawn = []
    for place, key in enumerate(_compared(metrics)):
        bins = [
            (one["confidence"], one["accuracy"], *_interval(one))
            for one in models[key]["calibration"]["bins"]
        ]
        drawn.append(
            _plot(
                f"reliability-{place}",
                f"{titles[key]}: accuracy by confidence",
                f"Reliability diagram; expected calibration error {100 * errors[key]:.2f} points",
                partial(plots.reliability, bins=bins),
            )
        )
    measured = {titles[key]: models[key]["coverage"] for key in _compared(metrics)}
    told = "; ".join(
        f"{title}: {one['accuracy'][-1]:.2%} of all" for title, one in measured.items()
    )
    caption = "Accuracy of the most confident answers, by their share of all"
    drawn.append(_plot("coverage", caption, told, partial(plots.coverage, measured=measured)))
    header = ("model", "ECE, points")
    return {"table": Table("Calibration", header, rows), "plots": drawn}


def _interval(one: dict[str, Any]) -> tuple[float, float]:
    return significance.wilson_interval(round(one["accuracy"] * one["count"]), one["count"])


def _rejection(metrics: dict[str, Any]) -> dict[str, Any]:
    found = metrics["rejection"]
    digits, title = found["digits"], _titles(metrics)[metrics["deployed"]]
    caption = "What refusing costs, by confidence threshold"
    told = (
        f"at a threshold of {found['threshold']:.3f}, {digits['refused']:,} test images are refused"
    )
    curve = partial(plots.rejection_curve, measured=found)
    header, rows = results.REJECTION_HEADER, results.rejection_rows(metrics)
    return {
        "heading": results.rejection_heading(metrics),
        "table": Table(f"What {title} refuses", header, rows),
        "note": results.rejection_caption(metrics),
        "plots": [_plot("rejection", caption, f"{caption}: {told}", curve, (3.9, 3.4))],
    }


def _robustness(metrics: dict[str, Any]) -> dict[str, Any]:
    """Accuracy under corruption: a plot of the means, a table by severity, the summary."""
    found, titles = metrics["robustness"], _titles(metrics)
    deployed, models = metrics["deployed"], list(found["summary"])
    order = sorted(
        found["corruptions"],
        key=lambda name: statistics.mean(found["corruptions"][name][deployed]["raw"]),
        reverse=True,
    )
    means = {
        f"{titles[model]}, {words}": [
            statistics.mean(found["corruptions"][name][model][kind]) for name in order
        ]
        for kind, words in (("raw", "as it comes"), ("prepared", "prepared"))
        for model in models
    }
    caption = "Accuracy on corrupted images, the mean over five severities"
    told = "; ".join(
        f"{titles[model]} {found['summary'][model]['mean_accuracy']:.1%} as they come, "
        f"{found['summary'][model]['mean_accuracy_prepared']:.1%} prepared"
        for model in models
    )
    draw = partial(plots.robustness, means=means, names=order)
    header = ("corruption", *(f"severity {one}" for one in found["severities"]), "mean", "prepared")
    rows = []
    for name in order:
        ours = found["corruptions"][name][deployed]
        shown = [*ours["raw"], statistics.mean(ours["raw"]), statistics.mean(ours["prepared"])]
        rows.append([name.replace("_", " "), *(f"{one:.1%}" for one in shown)])
    summary = [
        [
            titles[model],
            f"{one['mean_accuracy']:.1%}",
            f"{one['mean_accuracy_prepared']:.1%}",
            "–" if one["mean_corruption_error"] is None else f"{one['mean_corruption_error']:.3f}",
        ]
        for model, one in found["summary"].items()
    ]
    return {
        "plots": [_plot("robustness", caption, f"{caption}: {told}", draw, (3.9, 4.4))],
        "tables": [
            Table(
                "The mean over all corruptions and severities",
                ("model", "as they come", "prepared", "mean corruption error"),
                summary,
            ),
            Table(
                f"{titles[deployed]}, images as they come, but for the last column", header, rows
            ),
        ],
        "images": found["images"],
        "prepared_images": found["prepared_images"],
        "digits": results.of_digits(metrics),
        "reference": titles[models[0]],
    }


def _speed(metrics: dict[str, Any]) -> dict[str, Any]:
    timings, titles = metrics["timings"], _titles(metrics)
    header = ("model", "kernel set", "median, µs", "95th percentile, µs", "images/s in batches")
    rows = [
        [
            titles[key],
            timing["kernels"],
            f"{timing['p50_us']:,.1f}",
            f"{timing['p95_us']:,.1f}",
            f"{timing['batched_images_per_second']:,}",
        ]
        for key, timing in timings["models"].items()
    ]
    return {
        "table": Table("Time of one image, and images a second", header, rows, ["kernel set"]),
        "timings": timings,
        "slower": _no_faster(metrics),
        "arena": metrics.get("arena"),
    }


def _no_faster(metrics: dict[str, Any]) -> str | None:
    """Say so where the deployed file is no faster than the float .tflite that it was held against.

    That is the one beside it in a run; of files given by hand, the one that layers were compared
    with.
    """
    deployed, models = metrics["deployed"], metrics["timings"]["models"]
    in_float = "float32" if "float32" in models else metrics["reference"]
    if deployed not in metrics.get("layers", {}):
        return None
    ours, theirs = models[deployed]["p50_us"], models[in_float]["p50_us"]
    if ours < theirs:
        return None
    titles = _titles(metrics)
    why = (
        " XNNPACK's int8 kernels pad the first convolution's single input channel, and most of the "
        "time goes there: see export.optimize_layout."
    )
    return (
        f"{titles[deployed]} is not faster than {titles[in_float]} on this machine: {ours:.1f} µs "
        f"against {theirs:.1f} µs.{'' if 'layout' in metrics else why}"
    )


def _plot(
    name: str,
    caption: str,
    alternative: str,
    draw: Callable[[Axes], None],
    size: tuple[float, float] = (3.9, 2.9),
) -> Plot:
    return Plot(caption, alternative, Markup(plots.svg(draw, name, size)))


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
