"""The figures of a run, as PNG. matplotlib draws without a display."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from keras_lenet import artifacts
from keras_lenet.evaluation.metrics import Metrics, Rejection, wilson_interval
from keras_lenet.evaluation.quantization_noise import numbered
from keras_lenet.models.summary import maps

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = "osD^vP"
PLAIN_TEXT: Any = {"text.parse_math": False}  # a file may be called $x$
History = Mapping[str, list[float]]
"""Columns of a stage's `history.csv`."""
CURVES = {"loss": "loss", "accuracy": "accuracy", "learning_rate": "learning rate"}
ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1)
MOST_FILTERS, MOST_MAPS = 32, 16
DRAWN_LAYERS = ("InputLayer", "Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D",
                "GlobalAveragePooling2D", "Dense")  # fmt: skip


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=120, metadata={"Software": None})
    return written.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    artifacts.write_bytes(path, png(figure))


# Training


def contact_sheet(images: NDArray[np.float32], columns: int = 16) -> Figure:
    """Draw training images as the model sees them: float32, (N, H, W), in [0, 1]."""
    figure = _in_rows(images, columns, 0.6, cmap="gray", vmin=0, vmax=1)
    figure.set_figheight(figure.get_figheight() + 0.4)
    figure.suptitle("Training images as the model sees them: warped and resized", fontsize=10)
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


def curve(axis: Axes, history: History, key: str, kept: int | None = None) -> None:
    """Draw one column of a history by epoch, beside the same column of validation.

    Args:
        axis: to draw on.
        history: the columns of a stage's `history.csv`.
        key: one of `CURVES`.
        kept: the epoch whose weights are kept, from 1; a dotted line marks it.
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


def _stretch_towards_one(axis: Axes, accuracies: list[float]) -> None:
    """Scale the y axis by the logarithm of the error; the accuracy 1 is drawn as 0.9995."""
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


# Filters and feature maps


def first_filters(model: Any) -> tuple[str, NDArray[np.float32]]:
    """Return the weights of the first layer that has weights, as pictures.

    Of many filters, only those with the largest norm, in the order of the layer. A picture of a
    dense layer's unit has the size of the image.

    Returns:
        A caption, and float32, (N, height, width).
    """
    layer = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    kernel = np.asarray(layer.kernel)
    sides = kernel.shape[:2] if kernel.ndim == 4 else model.input_shape[1:3]
    pictures = kernel.reshape(*sides, -1).transpose(2, 0, 1)
    norms = np.linalg.norm(pictures.reshape(len(pictures), -1), axis=1)
    chosen = np.sort(np.argsort(-norms, kind="stable")[:MOST_FILTERS])
    kind = "filters" if kernel.ndim == 4 else "units"
    caption = f"{layer.name}: {len(pictures)} {kind} of {'×'.join(map(str, sides))}"
    if len(pictures) > MOST_FILTERS:
        caption += f", the {MOST_FILTERS} with the largest weights"
    return caption, pictures[chosen]


def draw_filters(kernels: NDArray[np.float32], columns: int = 16) -> Figure:
    """Draw weights (N, H, W) on one scale: red is positive, blue is negative."""
    side = 0.95 if len(kernels) <= columns else 0.6
    limit = float(np.abs(kernels).max()) or 1.0
    return _in_rows(kernels, columns, side, cmap="RdBu_r", vmin=-limit, vmax=limit)


def _in_rows(pictures: NDArray[Any], columns: int, side: float, **look: Any) -> Figure:
    """Draw pictures (N, H, W) in rows, each `side` inches wide."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(columns * side, rows * side), layout="constrained")
    for axis, picture in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, pictures):
        axis.set_axis_off()
        if picture is not None:
            axis.imshow(picture, **look)
    return figure


def feature_maps(model: Any, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of a model's layers for one image.

    Args:
        model: a Keras model that takes float32 (N, side, side, 1) in [0, 1].
        image: uint8, (28, 28).

    Returns:
        By layer that is drawn, float32, (height, width, maps) or (units,).
    """
    import keras

    from keras_lenet.data import augment  # needs TensorFlow, as no other function here does

    layers = [layer for layer in model.layers if type(layer).__name__ in DRAWN_LAYERS]
    whole = keras.Model(model.inputs, [layer.output for layer in layers])
    unit = augment.to_unit(image[np.newaxis, ..., np.newaxis])
    found = whole(augment.resize(unit, model.input_shape[1]), training=False)
    return {layer.name: np.asarray(values[0]) for layer, values in zip(layers, found, strict=True)}


def draw_feature_maps(outputs: Mapping[str, NDArray[np.float32]], labels: Sequence[str]) -> Figure:
    """Draw the outputs of each layer in a row, at most `MOST_MAPS` maps of a layer.

    In a row without negative values black is 0; in other rows white is 0, and blue negative.

    Args:
        outputs: by layer, float32, (H, W, maps) or (units,).
        labels: names of the classes, for the outputs of as many units.
    """
    shown = {name: values.reshape(-1) if values.size == values.shape[-1] else values
             for name, values in outputs.items()}  # fmt: skip
    heights = [0.35 if values.ndim == 1 else 1 for values in shown.values()]
    figure = Figure(figsize=(12.6, 0.9 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(shown), MOST_MAPS, height_ratios=heights)
    for row, (name, values) in enumerate(shown.items()):
        signed, limit = values.min() < 0, float(np.abs(values).max()) or 1.0
        look: dict[str, Any] = {"cmap": "RdBu_r" if signed else "gray", "vmax": limit}
        look |= {"vmin": -limit if signed else 0, "interpolation": "nearest"}
        if values.ndim == 1:
            panels = [figure.add_subplot(grid[row, :])]
            panels[0].imshow(values[np.newaxis], aspect="auto", **look)
        else:
            count = min(values.shape[-1], MOST_MAPS)
            panels = [figure.add_subplot(grid[row, place]) for place in range(count)]
            for place, axis in enumerate(panels):
                axis.imshow(values[..., place], **look)
        for axis in panels:
            axis.set(xticks=[], yticks=[])
        title = f"{name}\n{maps(outputs[name].shape)}"
        panels[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        if values.shape == (len(labels),):
            panels[0].set_xticks(range(len(labels)), labels, fontsize=9)
    return figure


# Evaluation


@matplotlib.rc_context(PLAIN_TEXT)
def confusion_matrices(metrics: Metrics) -> Figure:
    """Draw the confusion matrices of the compared models side by side, on one scale of colour."""
    models = [metrics.models[key] for key in metrics.compared]
    matrices = [np.array(model.confusion) for model in models]
    figure = Figure(figsize=(6 * len(models), 6.9), layout="constrained")
    figure.suptitle(f"{metrics.dataset}, {metrics.images:,} test images")
    most = max(int(_mistakes(matrix).max()) for matrix in matrices)
    panels = figure.subplots(1, len(models), squeeze=False).flat
    for axis, model, matrix in zip(panels, models, matrices, strict=True):
        confusion(axis, matrix, metrics.labels, most)
        axis.set_title(f"{model.title}: {model.total - model.correct} of {model.total} wrong")
    return figure


def confusion(
    axis: Axes, matrix: NDArray[np.int64], labels: Sequence[str], most: int | None = None
) -> None:
    """Draw a confusion matrix (10, 10): true class by predicted class.

    Only mistakes have a colour. The strongest colour stands for `most`, or for the most frequent
    mistake of the matrix.
    """
    mistakes = _mistakes(matrix)
    strongest = mistakes.max() if most is None else most
    # Twice the count: a darker cell would hide its figure.
    shown = np.ma.masked_equal(mistakes, 0)
    axis.imshow(shown, cmap="Oranges", vmin=0, vmax=2 * max(strongest, 1))
    for (true, predicted), count in np.ndenumerate(matrix):
        if count:
            weight = "bold" if true == predicted else "normal"
            axis.text(predicted, true, str(count), ha="center", va="center", size=8, weight=weight)
    slanted: Any = {"rotation": 40, "ha": "right"} if max(map(len, labels)) > 3 else {}
    axis.set_xticks(range(len(labels)), labels, **slanted)
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlabel="predicted class", ylabel="true class")


def _mistakes(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    return matrix - np.diag(np.diag(matrix))


@matplotlib.rc_context(PLAIN_TEXT)
def noise(metrics: Metrics) -> Figure:
    """Draw the SQNR along the network, from top to bottom, for each quantized file."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for (key, rows), look in zip(metrics.quantization_noise.items(), _looks(), strict=False):
        ratios = [np.nan if row.sqnr_db is None else row.sqnr_db for row in rows]
        axis.plot(ratios, range(len(rows)), label=metrics.models[key].title, **look)
    # Files of one architecture have the same ops.
    ops = numbered(next(iter(metrics.quantization_noise.values())))
    axis.set_yticks(range(len(ops)), ops)
    axis.set(ylim=(len(ops) - 0.5, -0.5), xlabel="signal to quantization noise ratio, dB")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


@matplotlib.rc_context(PLAIN_TEXT)
def reliability(metrics: Metrics) -> Figure:
    """Draw accuracy by confidence for the compared models, with 95 % intervals.

    On the diagonal, confidence and accuracy are equal.
    """
    models = [metrics.models[key] for key in metrics.compared]
    figure = Figure(figsize=(4.5 * len(models), 4), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False).flat
    for axis, model in zip(panels, models, strict=True):
        bins = model.calibration.bins
        confidence = [100 * one.confidence for one in bins]
        ends = [wilson_interval(round(one.accuracy * one.count), one.count) for one in bins]
        low, high = 100 * np.array(ends).T
        axis.plot((0, 100), (0, 100), color="grey", linestyle=":")
        axis.vlines(confidence, low, high, color=BLUE, alpha=0.5, linewidth=3)
        axis.plot(confidence, [100 * one.accuracy for one in bins], color=BLUE, marker="o")
        axis.set(xlim=(0, 102), ylim=(-2, 102), xlabel="confidence, %", ylabel="accuracy, %")
        axis.set_title(model.title)
        axis.grid(alpha=0.3)
    return figure


def rejection(found: Rejection) -> Figure:
    """Draw the share of rejected pictures by the share of rejected test images."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    lost = 100 * np.array(found.curve["test"])
    for kind, look in zip(found.ood, _looks(), strict=False):
        axis.plot(lost, 100 * np.array(found.curve[kind]), label=kind, **(look | {"marker": None}))
    chosen = 100 * found.test.rejected / found.test.total
    axis.axvline(chosen, color="grey", linewidth=1)
    axis.annotate(f" threshold {found.threshold:.3f}", (chosen, 2), fontsize=9)
    axis.set(xlim=(0, max(3.0, 1.5 * chosen)), ylim=(0, 102))
    axis.set(xlabel="test images rejected, %", ylabel="other pictures rejected, %")
    axis.set_title("Rejection by confidence threshold")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


@matplotlib.rc_context(PLAIN_TEXT)
def robustness(metrics: Metrics) -> Figure:
    """Draw mean accuracies under corruption; the hardest corruption is at the bottom."""
    found = metrics.robustness
    assert found is not None
    names = hardest_last(metrics)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(names))[::-1]
    for key, look in zip(found.summary, _looks(), strict=False):
        title, measured = (
            metrics.models[key].title,
            [found.corruptions[name][key] for name in names],
        )
        raw = [100 * statistics.mean(one.raw) for one in measured]
        prepared = [100 * statistics.mean(one.prepared) for one in measured]
        look |= {"linestyle": "none", "markersize": 6}
        axis.plot(raw, places, label=f"{title}, as it comes", **look)
        axis.plot(prepared, places, label=f"{title}, prepared", fillstyle="none", **look)
    axis.set_yticks(places, [name.replace("_", " ") for name in names])
    axis.set(xlim=(0, 101), xlabel="accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def hardest_last(metrics: Metrics) -> list[str]:
    """Return the corruptions by falling mean accuracy of the deployed model."""
    assert metrics.robustness is not None
    found = metrics.robustness.corruptions
    return sorted(found, key=lambda name: -statistics.mean(found[name][metrics.deployed].raw))


def _looks() -> Iterator[dict[str, Any]]:
    """Yield colour, line style and marker of each series."""
    for colour, style, marker in cycle(zip(PALETTE, STYLES, MARKERS, strict=True)):
        yield {"color": colour, "linestyle": style, "marker": marker, "markersize": 4}
