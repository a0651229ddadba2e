"""Filters of the first layer, and feature maps of one image: computed, and drawn as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from keras_lenet.data import augment
from keras_lenet.models.summary import maps

MOST = 32
"""Filters that are worth a look."""
DRAWN = ("InputLayer", "Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D",
         "GlobalAveragePooling2D", "Dense")  # fmt: skip


def first_filters(model: Any) -> tuple[str, NDArray[np.float32]]:
    """Return the weights of the first layer that has any, as pictures.

    A dense layer's units are as large as the image. Of many filters those with the largest norm,
    in the order of the layer.

    Returns:
        A title, and float32, (N, height, width).
    """
    layer = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    kernel = np.asarray(layer.kernel)
    sides = kernel.shape[:2] if kernel.ndim == 4 else model.input_shape[1:3]
    pictures = kernel.reshape(*sides, -1).transpose(2, 0, 1)
    norms = np.linalg.norm(pictures.reshape(len(pictures), -1), axis=1)
    chosen = np.sort(np.argsort(-norms, kind="stable")[:MOST])
    shape = "×".join(map(str, sides))
    whole = f"{len(pictures)} filters" if kernel.ndim == 4 else f"{len(pictures)} units"
    some = f", the {MOST} with the largest weights" if len(pictures) > MOST else ""
    return f"{layer.name}: {whole} of {shape}{some}", pictures[chosen]


def feature_maps(model: Any, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Compute the output of every layer that is worth drawing.

    Args:
        model: a Keras model that takes float32 (N, side, side, 1) in [0, 1].
        image: uint8, (28, 28).

    Returns:
        By layer that is worth drawing, float32, (height, width, maps) or (units,).
    """
    import keras

    layers = [layer for layer in model.layers if type(layer).__name__ in DRAWN]
    whole = keras.Model(model.inputs, [layer.output for layer in layers])
    entering = augment.resize(
        augment.to_unit(image[np.newaxis, ..., np.newaxis]), model.input_shape[1]
    )
    found = whole(entering, training=False)
    return {layer.name: np.asarray(values[0]) for layer, values in zip(layers, found, strict=True)}


def draw_filters(kernels: NDArray[np.float32], columns: int = 16) -> Figure:
    """Draw weights as pictures, on one scale: red adds where there is ink, blue takes away.

    Args:
        kernels: float32, (N, H, W).
        columns: pictures in a row, at most.
    """
    columns = min(columns, len(kernels))
    rows = -(-len(kernels) // columns)
    side = 0.95 if rows == 1 else 0.6
    figure = Figure(figsize=(columns * side, rows * side), layout="constrained")
    limit = float(np.abs(kernels).max()) or 1.0
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, kernel in zip(axes.flat, kernels, strict=False):
        axis.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit)
    return figure


def draw_feature_maps(outputs: dict[str, NDArray[np.float32]], labels: Sequence[str]) -> Figure:
    """Draw what each layer makes of one image, a row for each, up to 16 maps of it.

    Where nothing is negative, black is 0 and white the layer's maximum; else blue is negative,
    white 0 and red positive.

    Args:
        outputs: by layer, float32, (H, W, maps) or (units,); the last are the classes'.
        labels: the classes' names.
    """
    width, most, gap, left, top = 11.2, 16, 0.32, 1.4, 0.1
    shown = {name: values.reshape(-1) if values.size == values.shape[-1] else values
             for name, values in outputs.items()}  # fmt: skip
    heights = [
        0.3 if values.ndim == 1 else min(1.05, width / min(values.shape[-1], most))
        for values in shown.values()
    ]
    whole = (left + width + top, sum(heights) + gap * len(heights) + top)
    figure = Figure(figsize=whole)
    y = whole[1] - top

    def panel(x: float, wide: float, high: float) -> Axes:
        return figure.add_axes((x / whole[0], y / whole[1], wide / whole[0], high / whole[1]))

    for (name, values), height in zip(shown.items(), heights, strict=True):
        y -= height
        size = maps(outputs[name].shape)
        signed = values.min() < 0
        limit = float(np.abs(values).max()) or 1.0
        look: dict[str, Any] = {"cmap": "RdBu_r" if signed else "gray", "vmax": limit}
        look["vmin"] = -limit if signed else 0
        count = min(values.shape[-1], most)
        some = f"\n{count} shown" if values.ndim > 1 and count < values.shape[-1] else ""
        place = (left - 0.15) / whole[0], (y + height / 2) / whole[1]
        figure.text(*place, f"{name}\n{size}{some}", ha="right", va="center", fontsize=9)
        if values.ndim == 1:
            axis = panel(left, width, height)
            axis.imshow(values[np.newaxis], aspect="auto", interpolation="nearest", **look)
            axis.set_yticks([])
            axis.set_xticks(range(len(values)) if len(values) == len(labels) else [])
            if len(values) == len(labels):
                axis.set_xticklabels(labels, fontsize=9)
        else:
            for number in range(count):
                axis = panel(left + number * height, 0.94 * height, 0.94 * height)
                axis.imshow(values[..., number], interpolation="nearest", **look)
                axis.set_axis_off()
        y -= gap
    return figure
