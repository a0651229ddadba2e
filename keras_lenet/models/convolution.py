"""The block that the networks with batch normalization are made of."""

from __future__ import annotations

from typing import Any


def convolution(
    keras: Any,
    x: Any,
    filters: int,
    size: int,
    name: str,
    *,
    normalized: bool,
    strides: int = 1,
    padding: str = "valid",
) -> Any:
    """A convolution with ReLU, as it is trained (batch-normalized) or as it is deployed.

    Batch normalization: Ioffe and Szegedy, ICML 2015, section 3. Trained, the convolution has no
    bias, since the normalization's offset follows; deployed, both are one convolution with bias.

    Args:
        keras: the namespace to build in.
        x: float32, (N, height, width, channels).
        filters: how many.
        size: side of each, in pixels.
        name: of the convolution; its normalization is `<name>_norm`.
        normalized: build the form that is trained.
        strides: of the convolution, in pixels.
        padding: "valid" or "same".
    """
    layers = keras.layers
    shape = {"strides": strides, "padding": padding, "name": name}
    if not normalized:
        return layers.Conv2D(filters, size, activation="relu", **shape)(x)
    x = layers.Conv2D(filters, size, use_bias=False, **shape)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))
