"""Convolutions as they are trained: batch-normalized, or written as what computes faster."""

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


def pooled(keras: Any, filters: int, size: int, name: str) -> Any:
    """A convolution with ReLU and 2×2 max pooling, all in one layer.

    The bias and ReLU keep the order of values, so that they may come after the maximum, where
    there are a quarter as many.

    Args:
        keras: the namespace to build in.
        filters: how many.
        size: side of each, in pixels.
        name: of the layer, whose weights are the convolution's.
    """

    class Pooled(keras.layers.Conv2D):
        def call(self, inputs: Any) -> Any:
            x = keras.ops.max_pool(self.convolution_op(inputs, self.kernel), 2, 2)
            return keras.ops.relu(x + self.bias)

        def compute_output_shape(self, input_shape: Any) -> Any:
            batch, height, width, channels = super().compute_output_shape(input_shape)
            return batch, height // 2, width // 2, channels

    return Pooled(filters, size, name=name)


def whole(keras: Any, filters: int, size: int, name: str) -> Any:
    """A convolution with ReLU of images as large as its kernel, as the matrix product that it is.

    Args:
        keras: the namespace to build in.
        filters: how many.
        size: side of each, in pixels.
        name: of the layer, whose weights are the convolution's.
    """

    class Whole(keras.layers.Conv2D):
        def call(self, inputs: Any) -> Any:
            ops = keras.ops
            columns = ops.reshape(self.kernel, (-1, self.filters))
            x = ops.reshape(inputs, (-1, columns.shape[0])) @ columns
            return ops.reshape(ops.relu(x + self.bias), (-1, 1, 1, self.filters))

    return Whole(filters, size, name=name)
