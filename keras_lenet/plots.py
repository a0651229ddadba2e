"""The pictures of a run, as PNG files. Drawn without a display; nothing is ever shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from keras_lenet.artifacts import replacing

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        # Without the version of matplotlib in it, the same figure gives the same bytes.
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


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


def training_curves(histories: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw loss, accuracy and learning rate by epoch, one row of panels for each stage.

    Args:
        histories: by stage, the columns of its `history.csv`.
    """
    figure = Figure(figsize=(12, 3.6 * len(histories)), layout="constrained")
    panels = figure.subplots(len(histories), 3, squeeze=False)
    for row, (stage, history) in zip(panels, histories.items(), strict=True):
        epochs = history["epoch"]
        marker = "o" if len(epochs) < 30 else None
        for axis, key in zip(row[:2], ("loss", "accuracy"), strict=True):
            axis.plot(epochs, history[key], color=BLUE, marker=marker, label="training, augmented")
            axis.plot(
                epochs, history[f"val_{key}"], color=ORANGE, marker=marker, label="validation"
            )
            axis.set_title(f"{stage}: {key}")
            axis.legend()
        best = int(np.argmax(history["val_accuracy"]))
        row[0].set_yscale("log")
        row[1].axvline(epochs[best], color=GREEN, linestyle=":")
        row[2].plot(epochs, history["learning_rate"], color=BLUE, marker=marker)
        row[2].set_title(f"{stage}: learning rate")
        for axis in row:
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
            if len(epochs) <= 10:
                axis.set_xticks(epochs)
    return figure


def confusion_matrices(matrices: dict[str, NDArray[np.int64]], title: str) -> Figure:
    """Draw confusion matrices side by side: rows are the true digit, columns the answer.

    Colour follows the mistakes alone, on one scale; the diagonal would drown them.

    Args:
        matrices: int64, (10, 10), by model.
        title: above them all.
    """
    figure = Figure(figsize=(6 * len(matrices), 6.9), layout="constrained")
    figure.suptitle(title)
    off_diagonal = {
        name: matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
        for name, matrix in matrices.items()
    }
    most = max(int(mistakes.max()) for mistakes in off_diagonal.values())
    for axis, (name, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False).flat, matrices.items(), strict=True
    ):
        mistakes = off_diagonal[name]
        axis.imshow(mistakes, cmap="Oranges", vmin=0, vmax=max(most * 1.5, 1))
        for (true, answer), count in np.ndenumerate(matrix):
            if count:
                weight = "bold" if true == answer else "normal"
                axis.text(
                    answer,
                    true,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=8,
                    fontweight=weight,
                )
        wrong = int(mistakes.sum())
        axis.set_title(f"{name}: {wrong} of {int(matrix.sum())} wrong")
        axis.set_xticks(range(len(matrix)))
        axis.set_yticks(range(len(matrix)))
        axis.set_xlabel("answer")
        axis.set_ylabel("true digit")
    return figure


def rejection(measured: dict[str, Any]) -> Figure:
    """Draw what each threshold refuses: of the digits along, of everything else upwards.

    Args:
        measured: what `confidence.rejection` returned.
    """
    curve, digits = measured["curve"], measured["digits"]
    lost = 100 * np.array(curve["digits"])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for kind, colour, style in zip(
        measured["outliers"], PALETTE, ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))), strict=True
    ):
        axis.plot(lost, 100 * np.array(curve[kind]), color=colour, linestyle=style, label=kind)
    chosen = 100 * digits["refused"] / digits["total"]
    axis.axvline(chosen, color="grey", linewidth=1)
    axis.annotate(
        f" threshold {measured['threshold']:.3f}", (chosen, 2), color="dimgrey", fontsize=9
    )
    axis.set_xlim(0, max(3.0, 1.5 * chosen))
    axis.set_ylim(0, 102)
    axis.set_xlabel("digits refused, %")
    axis.set_ylabel("other pictures refused, %")
    axis.set_title("What refusing costs, by confidence threshold")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def mistakes(
    images: NDArray[np.uint8], captions: Sequence[str], title: str, columns: int = 10
) -> Figure:
    """Draw misclassified images with what they are and what they were taken for.

    Args:
        images: uint8, (N, 28, 28).
        captions: one an image.
        title: above them all.
        columns: images in a row.
    """
    rows = max(-(-len(images) // columns), 1)
    figure = Figure(figsize=(columns * 1.2, rows * 1.6 + 0.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(255 - image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(caption, fontsize=8)
    return figure
