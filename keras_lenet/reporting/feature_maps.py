"""What a network has learnt to see: its first layer's weights, and one image on its way through."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.data import augment

MOST = 32
"""Filters that are worth a look."""
DRAWN = ("InputLayer", "Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D",
         "GlobalAveragePooling2D", "Dense")  # fmt: skip


def first_filters(model: Any) -> tuple[str, NDArray[np.float32]]:
    """The weights of the first layer that has any, as pictures.

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
    """What each layer makes of an image.

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
