"""Sections of the report page, each made from the metrics alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes

from keras_lenet.evaluation import quantization_noise, significance
from keras_lenet.evaluation.metrics import Bin, Metrics, TensorNoise
from keras_lenet.reporting import plots, results

LANDSCAPE, SQUARE = (3.9, 2.9), (3.9, 3.4)
"""Sizes of plots, in inches."""


class Table(NamedTuple):
    """A table. The first column names the row; `words` are further columns of text."""

    caption: str
    header: Sequence[str]
    rows: list[list[str]]
    words: Sequence[str] = ()


class Plot(NamedTuple):
    """A drawing, its caption, and its content in words for those who cannot see it."""

    caption: str
    alternative: str
    svg: Markup


class Section(NamedTuple):
    """A section of the page: sentences, plots, tables and a note, in this order."""

    id: str
    heading: str
    sentences: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    note: str = ""


def titles_of(metrics: Metrics) -> dict[str, str]:
    """Return the title of every model by its key."""
    return {key: model.title for key, model in metrics.models.items()}


def compared(metrics: Metrics) -> list[str]:
    """Return the keys of the reference and of the deployed model, which may be one."""
    return list(dict.fromkeys((metrics.reference, metrics.deployed)))


def plot(
    name: str,
    caption: str,
    alternative: str,
    draw: Callable[[Axes], None],
    size: tuple[float, float] = LANDSCAPE,
) -> Plot:
    """Draw a plot; `name` is unlike any other's on the page."""
    return Plot(caption, alternative, Markup(plots.svg(draw, name, size)))


def gates(metrics: Metrics) -> Table | None:
    """Return the table of gates, if any is set."""
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


def models(metrics: Metrics) -> Section:
    """Return accuracy, size and time of every model."""
    rows, agreement = results.rows(metrics), metrics.fake_quantized_agreement
    sentences = []
    if agreement is not None:
        sentences = [
            "The fake-quantized model and the int8 file give one class on "
            f"{agreement:.2%} of the images."
        ]
    table = Table("Accuracy, size and time", results.HEADER, rows, ["kernel set"])
    return Section("models", "Models", sentences, (), [table], results.caption(metrics))


def training(histories: Mapping[str, plots.History], kept: Mapping[str, int]) -> Section:
    """Return the curves of the training stages.

    Args:
        histories: by stage, the columns of its `history.csv`.
        kept: by stage, the epoch whose weights are kept, from 1.
    """
    drawn = [
        plot(
            f"curve-{stage}-{key}",
            f"{stage}: {title}",
            f"{title} of {stage} by epoch, from {history[key][0]:.3g} to {history[key][-1]:.3g}",
            partial(plots.curve, history=history, key=key, kept=kept[stage]),
            (3.3, 2.5),
        )
        for stage, history in histories.items()
        for key, title in plots.CURVES.items()
    ]
    accuracies = ", ".join(
        f"{histories[stage]['val_accuracy'][epoch - 1]:.2%} in {stage}"
        for stage, epoch in kept.items()
    )
    sentence = (
        "Validation accuracy of the epochs whose weights are kept, marked by a dotted line: "
        f"{accuracies}."
    )
    return Section("training", "Training", [sentence], drawn)


def noise(metrics: Metrics, of_files: bool) -> Section | None:
    """Return the quantization noise along the network; `of_files` given by hand, or of a run."""
    if not metrics.quantization_noise:
        return None
    titles = titles_of(metrics)
    traced = {titles[key]: rows for key, rows in metrics.quantization_noise.items()}
    sentences = [_greatest_loss(title, rows) for title, rows in traced.items()]
    # Only files of one architecture are compared: they have the same ops.
    first = next(iter(traced.values()))
    names = quantization_noise.numbered(first)
    weighted = [position for position, row in enumerate(first) if row.channels]
    ops = [names[position] for position in weighted]
    ratios = {title: [row.sqnr_db for row in rows] for title, rows in traced.items()}
    extremes = {
        title: [rows[position].channels or () for position in weighted]
        for title, rows in traced.items()
    }
    drawn = [
        plot(
            "noise",
            "Signal to quantization noise ratio along the network",
            " ".join(sentences),
            partial(plots.signal_to_noise, ratios=ratios, ops=names),
            (4, 3.8),
        ),
        plot(
            "channels",
            "Weight ranges: the greatest absolute weight of each output channel",
            f"A point for each output channel of {', '.join(ops)}",
            partial(plots.channel_ranges, extremes=extremes, ops=ops),
            (4, 3.8),
        ),
    ]
    apart = " Of files trained apart, the other weights count as lost, too." if of_files else ""
    note = (
        "The output of every op on test images, beside the same op's in float. SQNR is the signal "
        "to quantization noise ratio; 6 dB are one bit. Losses count from "
        f"{quantization_noise.EIGHT_BITS:g} dB, about what 8 bits hold; a negative one is a gain. "
        f"Saturated: the share of values at an end of the range.{apart}"
    )
    tables = [_noise_table(title, rows) for title, rows in traced.items()]
    return Section("layers", "Where it was lost", sentences, drawn, tables, note)


def _greatest_loss(title: str, rows: Sequence[TensorNoise]) -> str:
    position = quantization_noise.worst(rows)
    if position is None:
        return f"Along {title} nothing is lost."
    return (
        f"Along {title} the most is lost after {quantization_noise.numbered(rows)[position]}: "
        f"{rows[position].drop_db:.1f} dB, down to {rows[position].sqnr_db:.1f} dB."
    )


def _noise_table(title: str, rows: Sequence[TensorNoise]) -> Table:
    header = ("op", "values", "SQNR, dB", "lost here, dB", "largest error", "saturated", "range")
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


def confidence(metrics: Metrics) -> Section:
    """Return how well confidence predicts accuracy."""
    rows = [[one.title, f"{100 * one.calibration.error:.2f}"] for one in metrics.models.values()]
    models = [metrics.models[key] for key in compared(metrics)]
    drawn = [
        plot(
            f"reliability-{place}",
            f"{one.title}: accuracy by confidence",
            "Reliability diagram; expected calibration error "
            f"{100 * one.calibration.error:.2f} points",
            partial(plots.reliability, bins=[_with_interval(bin) for bin in one.calibration.bins]),
        )
        for place, one in enumerate(models)
    ]
    measured = {one.title: one.coverage for one in models}
    told = "; ".join(f"{title}: {one.accuracy[-1]:.2%} of all" for title, one in measured.items())
    caption = "Accuracy of the most confident answers, by their share of all"
    drawn.append(plot("coverage", caption, told, partial(plots.coverage, measured=measured)))
    note = (
        "Expected calibration error (ECE): by how much confidence and accuracy lie apart, on "
        "average. On the dotted diagonal they are equal. Bars are 95 % intervals; those of few "
        "images are long."
    )
    table = Table("Calibration", ("model", "ECE, points"), rows)
    return Section("confidence", "Confidence", (), drawn, [table], note)


def _with_interval(bin: Bin) -> tuple[float, float, float, float]:
    interval = significance.wilson_interval(round(bin.accuracy * bin.count), bin.count)
    return (bin.confidence, bin.accuracy, *interval)


def rejection(metrics: Metrics) -> Section | None:
    """Return what the deployed model's confidence threshold rejects."""
    found, title = metrics.rejection, metrics.deployed_model.title
    if found is None:
        return None
    caption = "What refusing costs, by confidence threshold"
    told = (
        f"{caption}: at a threshold of {found.threshold:.3f}, {found.test.rejected:,} test images "
        "are refused"
    )
    drawn = plot("rejection", caption, told, partial(plots.rejection_curve, found=found), SQUARE)
    header, rows = results.REJECTION_HEADER, results.rejection_rows(metrics)
    table = Table(f"What {title} refuses", header, rows)
    heading, note = results.rejection_heading(metrics), results.rejection_caption(metrics)
    return Section("rejection", heading, (), [drawn], [table], note)


def robustness(metrics: Metrics) -> Section | None:
    """Return accuracy under corruption: a plot of the means, the summary, a table by severity."""
    found, titles, deployed = metrics.robustness, titles_of(metrics), metrics.deployed
    if found is None:
        return None
    by_name, reference = found.corruptions, titles[next(iter(found.summary))]
    order = sorted(by_name, key=lambda name: -statistics.mean(by_name[name][deployed].raw))
    raw, prepared = {}, {}
    for model in found.summary:
        measured = [by_name[name][model] for name in order]
        raw[f"{titles[model]}, as it comes"] = [statistics.mean(one.raw) for one in measured]
        prepared[f"{titles[model]}, prepared"] = [statistics.mean(one.prepared) for one in measured]
    caption = "Accuracy on corrupted images, the mean over five severities"
    told = "; ".join(
        f"{titles[model]} {one.mean_accuracy:.1%} as they come, "
        f"{one.mean_accuracy_prepared:.1%} prepared"
        for model, one in found.summary.items()
    )
    draw = partial(plots.robustness, means=raw | prepared, names=order)
    summary = [
        [
            titles[model],
            f"{one.mean_accuracy:.1%}",
            f"{one.mean_accuracy_prepared:.1%}",
            "–" if one.mean_corruption_error is None else f"{one.mean_corruption_error:.3f}",
        ]
        for model, one in found.summary.items()
    ]
    header = ("corruption", *(f"severity {one}" for one in found.severities), "mean", "prepared")
    rows = []
    for name in order:
        ours = by_name[name][deployed]
        shown = [*ours.raw, statistics.mean(ours.raw), statistics.mean(ours.prepared)]
        rows.append([name.replace("_", " "), *(f"{one:.1%}" for one in shown)])
    tables = [
        Table(
            "The mean over all corruptions and severities",
            ("model", "as they come", "prepared", "mean corruption error"),
            summary,
        ),
        Table(f"{titles[deployed]}, images as they come, but for the last column", header, rows),
    ]
    note = (
        f"Each of {found.images:,} test images is corrupted in every way, in five severities; "
        f"{found.prepared_images} of them, of every class, are prepared as well, as a photo would "
        f"be. Mean corruption error: the errors over those of {reference}, by corruption and then "
        "on average; 1 is as good."
    )
    if not metrics.of_digits:
        note += (
            " Preparation is made for digits, which it fits into 20×20 pixels: of images that fill "
            "the whole, “prepared” says little."
        )
    drawn = plot("robustness", caption, f"{caption}: {told}", draw, (3.9, 4.4))
    return Section("robustness", "Robustness", (), [drawn], tables, note)


def speed(metrics: Metrics) -> Section:
    """Return the times of all models, and the deployed model's memory."""
    timings, titles, arena = metrics.timings, titles_of(metrics), metrics.arena
    header = ("model", "kernel set", "median, µs", "95th percentile, µs", "images/s in batches")
    rows = [
        [
            titles[key],
            timing.kernels,
            f"{timing.p50_us:,.1f}",
            f"{timing.p95_us:,.1f}",
            f"{timing.batched_images_per_second:,}",
        ]
        for key, timing in timings.models.items()
    ]
    sentences = _no_faster(metrics)
    if arena:
        sentences.append(
            f"Memory on a microcontroller, the arena: {arena.bytes:,} bytes. {arena.how}."
        )
    threads = "1 thread" if timings.threads == 1 else f"{timings.threads} threads"
    note = (
        f"One image at a time, the Python call included. TensorFlow on {timings.device}; .tflite "
        f"files on {threads} of {timings.cpu}. The machine may have been busy with other work: "
        "trust ratios more than times, and measure on the device that counts."
    )
    table = Table("Time of one image, and images a second", header, rows, ["kernel set"])
    return Section("speed", "Speed and size", sentences, (), [table], note)


def _no_faster(metrics: Metrics) -> list[str]:
    """Return a sentence where the deployed file is no faster than its float .tflite.

    In a run that is the file beside it; of files given by hand, the reference.
    """
    deployed, models, titles = metrics.deployed, metrics.timings.models, titles_of(metrics)
    in_float = "float32" if "float32" in models else metrics.reference
    ours, theirs = models[deployed].p50_us, models[in_float].p50_us
    if deployed not in metrics.quantization_noise or ours < theirs:
        return []
    why = (
        " XNNPACK's int8 kernels pad the first convolution's single input channel, and most of the "
        "time goes there: see export.optimize_layout."
    )
    return [
        f"{titles[deployed]} is not faster than {titles[in_float]} on this machine: {ours:.1f} µs "
        f"against {theirs:.1f} µs.{'' if metrics.layout else why}"
    ]
