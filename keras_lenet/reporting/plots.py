"""The pictures of a run: PNG files, and SVG for the report. Nothing is ever shown on a display."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from keras_lenet.artifacts import replacing
from keras_lenet.evaluation.metrics import Coverage, Rejection

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = "osD^vP"
History = dict[str, list[float]]
"""Columns of a stage's `history.csv`."""
# What matplotlib writes for ink and paper, and what a page that may be dark calls them.
PAGE_COLOURS = {"#000000": "currentColor", "#ffffff": "var(--paper)"}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        # Without the version of matplotlib in it, the same figure gives the same bytes.
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def svg(draw: Callable[[Axes], None], name: str, size: tuple[float, float] = (3.9, 2.9)) -> str:
    """Draw one panel as SVG that can stand in an HTML page, light or dark.

    Its text stays text, its ink is the page's, and the same drawing gives the same bytes.

    Args:
        draw: draws on the axes that it is given.
        name: unlike any other's on the page; every id begins with it.
        size: in inches.
    """
    style: Any = {
        "font.size": 9,
        "legend.edgecolor": "none",
        "legend.fontsize": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,  # a file may be called $x$
    }
    written = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    whole = written.getvalue()
    drawing = re.sub(r"<(metadata|style)\b.*?</\1>", "", whole[whole.index("<svg") :], flags=re.S)
    return re.sub(r"<[^>]+>", lambda tag: _for_page(tag[0], name), drawing)


def _for_page(tag: str, name: str) -> str:
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    for written, meant in PAGE_COLOURS.items():
        tag = tag.replace(written, meant)
    if tag.startswith("<svg"):  # HTML knows the namespaces, and the page decides on the size
        tag = re.sub(r' (xmlns|xmlns:xlink|width|height)="[^"]*"', "", tag)
    # The page's font is narrower than DejaVu Sans, which the layout reckons with.
    return re.sub(r" font-family: [^;\"]*;", "", tag).replace("xlink:href", "href")


def contact_sheet(images: NDArray[np.float32], columns: int = 16) -> Figure:
    """Draw training images as the model sees them: float32, (N, H, W), in [0, 1]."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 0.6, rows * 0.6 + 0.4), layout="constrained")
    figure.suptitle("Training images as the model sees them: warped and resized", fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    return figure


def training_curves(histories: Mapping[str, History], kept: Mapping[str, int]) -> Figure:
    """Draw loss, accuracy and learning rate by epoch, one row of panels for each stage.

    Args:
        histories: by stage, the columns of its `history.csv`.
        kept: by stage, the epoch whose weights are kept, from 1.
    """
    figure = Figure(figsize=(12, 3.6 * len(histories)), layout="constrained")
    panels = figure.subplots(len(histories), len(CURVES), squeeze=False)
    for row, (stage, history) in zip(panels, histories.items(), strict=True):
        for axis, (key, title) in zip(row, CURVES.items(), strict=True):
            curve(axis, history, key, kept[stage])
            axis.set_title(f"{stage}: {title}")
            axis.set_ylabel("")
    return figure


CURVES = {"loss": "loss", "accuracy": "accuracy", "learning_rate": "learning rate"}


def curve(axis: Axes, history: History, key: str, kept: int | None = None) -> None:
    """Draw one column of a history by epoch, with validation's beside it where there is one.

    Args:
        axis: to draw on.
        history: the columns of a stage's `history.csv`.
        key: one of `CURVES`.
        kept: the epoch whose weights are kept, from 1, to mark it.
    """
    epochs = history["epoch"]
    marker = "o" if len(epochs) < 30 else None
    axis.plot(epochs, history[key], color=BLUE, marker=marker, label="training, augmented")
    if f"val_{key}" in history:
        validated = history[f"val_{key}"]
        axis.plot(epochs, validated, color=ORANGE, marker=marker, ls="--", label="validation")
    if key == "loss":
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if key == "accuracy":
        _stretch_towards_one(axis, [*history[key], *history["val_accuracy"]])
    if key != "learning_rate":
        if kept:
            mark = f"kept: epoch {kept}, {history['val_accuracy'][kept - 1]:.2%}"
            label = mark if key == "accuracy" else None
            axis.axvline(kept, color=GREEN, linestyle=":", label=label)
        axis.legend()
    axis.set(xlabel="epoch", ylabel=CURVES[key])
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1)


def _stretch_towards_one(axis: Axes, accuracies: list[float]) -> None:
    """Give every halving of the errors the same height; all of them right is as high as 0.9995."""
    none = 5e-4

    def height(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.log10(1 + none - np.minimum(accuracy, 1))

    def accuracy(height: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 + none - 10.0**-height

    axis.set_yscale("function", functions=(height, accuracy))
    low = max(tick for tick in ACCURACIES if tick <= min(accuracies))
    high = min(tick for tick in ACCURACIES if tick >= max(accuracies) and tick > low)
    axis.set_ylim(low, high)
    axis.yaxis.set_major_locator(FixedLocator(ACCURACIES))
    axis.yaxis.set_major_formatter(lambda tick, _: f"{100 * tick:g} %")


def confusion_matrices(
    matrices: dict[str, NDArray[np.int64]], title: str, labels: Sequence[str]
) -> Figure:
    """Draw confusion matrices side by side, on one scale of colour.

    Args:
        matrices: int64, (10, 10), by model.
        title: above them all.
        labels: the classes' names.
    """
    figure = Figure(figsize=(6 * len(matrices), 6.9), layout="constrained")
    figure.suptitle(title)
    most = most_confused(matrices.values())
    panels = figure.subplots(1, len(matrices), squeeze=False).flat
    for axis, (name, matrix) in zip(panels, matrices.items(), strict=True):
        confusion(axis, matrix, most, labels)
        wrong = int(matrix.sum() - matrix.trace())
        axis.set_title(f"{name}: {wrong} of {int(matrix.sum())} wrong")
    return figure


def most_confused(matrices: Iterable[NDArray[np.int64]]) -> int:
    """The greatest count of one mistake in any of several confusion matrices."""
    return max(int((matrix - np.diag(np.diag(matrix))).max()) for matrix in matrices)


def confusion(axis: Axes, matrix: NDArray[np.int64], most: int, labels: Sequence[str]) -> None:
    """Draw a confusion matrix: rows are the true class, columns the answer.

    Colour follows the mistakes alone; the diagonal would drown them.

    Args:
        axis: to draw on.
        matrix: int64, (10, 10).
        most: the count of mistakes that has the full colour.
        labels: the classes' names.
    """
    size = len(matrix)
    for (true, answer), count in np.ndenumerate(matrix):
        if not count:
            continue
        weight = "bold" if true == answer else "normal"
        if true != answer:
            shade = 0.1 + 0.55 * count / most
            corner = (answer - 0.5, true - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, facecolor=ORANGE, alpha=shade, edgecolor="none"))
        axis.text(answer, true, str(count), ha="center", va="center", size=8, weight=weight)
    axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    _name_classes(axis, labels)
    axis.set_yticks(range(size), labels)
    axis.set(xlabel="answer", ylabel="true class")


def flips(axis: Axes, counts: Mapping[str, Sequence[int]], labels: Sequence[str]) -> None:
    """Draw how many images of each class two models put in different classes.

    Args:
        axis: to draw on.
        counts: of each class, by pair of models.
        labels: the classes' names.
    """
    width = 0.8 / len(counts)
    colours = itertools.cycle(PALETTE)
    for place, ((pair, found), colour) in enumerate(zip(counts.items(), colours, strict=False)):
        left = np.arange(len(found)) - 0.4 + place * width
        axis.bar(left, found, width, align="edge", color=colour, label=pair)
    _name_classes(axis, labels)
    axis.set(xlabel="true class", ylabel="images")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3, axis="y")
    _legend_above(axis)


def _name_classes(axis: Axes, labels: Sequence[str]) -> None:
    """Write the classes' names under an axis, aslant where they would run into each other."""
    if max(map(len, labels)) > 3:
        axis.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    else:
        axis.set_xticks(range(len(labels)), labels)


def signal_to_noise(axis: Axes, ratios: dict[str, list[float | None]], ops: list[str]) -> None:
    """Draw the signal to quantization noise ratio along the network, from top to bottom.

    Args:
        axis: to draw on.
        ratios: in dB, one an op, by model; None where there is no noise.
        ops: their names.
    """
    for (model, found), look in zip(ratios.items(), _looks(), strict=False):
        values = [np.nan if ratio is None else ratio for ratio in found]
        axis.plot(values, range(len(ops)), label=model, **look)
    axis.set_yticks(range(len(ops)), ops)
    axis.set(ylim=(len(ops) - 0.5, -0.5), xlabel="signal to quantization noise ratio, dB")
    axis.grid(alpha=0.3)
    _legend_above(axis)


def channel_ranges(
    axis: Axes, extremes: Mapping[str, Sequence[Sequence[float]]], ops: list[str]
) -> None:
    """Draw the greatest absolute weight of each output channel, a point each.

    Args:
        axis: to draw on.
        extremes: for every op those of its channels, by model.
        ops: their names.
    """
    step = 0.6 / len(extremes)
    for place, ((model, found), look) in enumerate(zip(extremes.items(), _looks(), strict=False)):
        heights = [row - 0.3 + step * (place + 0.5) for row in range(len(ops))]
        axis.plot(
            np.concatenate([np.asarray(channels) for channels in found]),
            np.repeat(heights, [len(channels) for channels in found]),
            label=model,
            alpha=0.6,
            **(look | {"linestyle": "none"}),
        )
    axis.set_yticks(range(len(ops)), ops)
    axis.set(ylim=(len(ops) - 0.5, -0.5), xlabel="greatest absolute weight")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3, axis="x")
    _legend_above(axis)


def reliability(axis: Axes, bins: list[tuple[float, float, float, float]]) -> None:
    """Draw accuracy by confidence: on the diagonal a model is as often right as it says.

    Args:
        axis: to draw on.
        bins: of each its mean confidence, its accuracy, and the ends of the accuracy's interval.
    """
    confidence, accuracy, low, high = 100 * np.array(bins).T
    axis.plot((0, 100), (0, 100), color="grey", linestyle=":")
    axis.vlines(confidence, low, high, color=BLUE, alpha=0.5, linewidth=3)
    axis.plot(confidence, accuracy, color=BLUE, marker="o")
    axis.set(xlim=(0, 102), ylim=(-2, 102), xlabel="confidence, %", ylabel="accuracy, %")
    axis.grid(alpha=0.3)


def coverage(axis: Axes, measured: Mapping[str, Coverage]) -> None:
    """Draw the accuracy of the most confident answers by their share of all, by model."""
    for (model, found), look in zip(measured.items(), _looks(), strict=False):
        shares, accuracies = 100 * np.array(found.coverage), 100 * np.array(found.accuracy)
        axis.plot(shares, accuracies, label=model, **(look | {"marker": None}))
    axis.set(xlabel="most confident answers, % of all", ylabel="accuracy, %")
    axis.ticklabel_format(useOffset=False)
    axis.grid(alpha=0.3)
    _legend_above(axis)


def rejection(found: Rejection) -> Figure:
    """Draw `rejection_curve` as a picture of its own."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    rejection_curve(axis, found)
    axis.set_title("What refusing costs, by confidence threshold")
    return figure


def rejection_curve(axis: Axes, found: Rejection) -> None:
    """Draw what each threshold rejects: the test images along x, everything else along y."""
    lost = 100 * np.array(found.curve["test"])
    for kind, look in zip(found.ood, _looks(), strict=False):
        axis.plot(lost, 100 * np.array(found.curve[kind]), label=kind, **(look | {"marker": None}))
    chosen = 100 * found.test.rejected / found.test.total
    axis.axvline(chosen, color="grey", linewidth=1)
    axis.annotate(f" threshold {found.threshold:.3f}", (chosen, 2), fontsize=9)
    axis.set(xlim=(0, max(3.0, 1.5 * chosen)), ylim=(0, 102))
    axis.set(xlabel="test images refused, %", ylabel="other pictures refused, %")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")


def robustness(axis: Axes, means: dict[str, list[float]], names: list[str]) -> None:
    """Draw mean accuracies under corruption, a row for each corruption, the hardest at the bottom.

    Args:
        axis: to draw on.
        means: accuracies, one a corruption, by series: the plain ones first, as many prepared.
        names: of the corruptions.
    """
    places = np.arange(len(names))[::-1]
    for position, ((title, accuracies), look) in enumerate(
        zip(means.items(), itertools.cycle(_looks()), strict=False)
    ):
        prepared = position >= len(means) / 2
        axis.plot(
            100 * np.array(accuracies), places, label=title, linestyle="none",
            marker=look["marker"], color=look["color"], markersize=6,
            fillstyle="none" if prepared else "full",
        )  # fmt: skip
    axis.set(yticks=places, yticklabels=[name.replace("_", " ") for name in names])
    axis.set(xlim=(0, 101), xlabel="accuracy, %")
    axis.grid(alpha=0.3)
    _legend_above(axis)


def _looks() -> Iterator[dict[str, Any]]:
    """Colour, line and marker of one series after another: colour alone is not for everyone."""
    for colour, style, marker in itertools.cycle(zip(PALETTE, STYLES, MARKERS, strict=True)):
        yield {"color": colour, "linestyle": style, "marker": marker, "markersize": 4}


def _legend_above(axis: Axes) -> None:
    """Put the legend where no line can run through it."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
