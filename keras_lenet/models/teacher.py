"""A larger network to distil from: five convolutions, no dense layer but the last."""

from __future__ import annotations

from typing import Any

from keras_lenet.models.convolution import convolution


def network(keras: Any, x: Any, training: bool = False) -> Any:
    """Build the teacher: 181,818 parameters as deployed, 14 million multiply-accumulates.

    The first convolution halves the image at once: what it costs to train is mostly the
    normalization of large feature maps.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 32, 32, 1).
        training: build what is trained, with batch normalization.

    Returns:
        float32, (N, 10) logits.
    """
    layers = keras.layers

    def block(x: Any, number: int, filters: int, size: int = 3, strides: int = 1) -> Any:
        return convolution(
            keras, x, filters, size, f"conv{number}",
            normalized=training, strides=strides, padding="same",
        )  # fmt: skip

    x = block(x, 1, 32, size=5, strides=2)  # (N, 16, 16, 32)
    x = block(x, 2, 48)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (N, 8, 8, 48)
    x = block(x, 3, 64)
    x = block(x, 4, 96)
    x = block(x, 5, 96)  # (N, 8, 8, 96)
    x = layers.GlobalAveragePooling2D(name="mean")(x)  # (N, 96)
    return layers.Dense(10, dtype="float32", name="logits")(x)
