"""An int8 .tflite as C99 that needs nothing but a compiler: integers only, no interpreter.

`lowering` reads the file to the layers below, `emitter` writes their C, `bundle` all files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
"""Height, width, channels; a vector is (1, 1, n)."""


@dataclass(frozen=True)
class Layer:
    """The base of every layer: its shapes before and after."""

    source: Shape
    target: Shape


@dataclass(frozen=True)
class Resize(Layer):
    """RESIZE_BILINEAR: of each output row and column `arithmetic.interpolation`."""

    rows: tuple[list[int], list[int]]
    columns: tuple[list[int], list[int]]


@dataclass(frozen=True)
class Pad(Layer):
    """PAD with `value`: so many rows above, so many columns to the left."""

    top: int
    left: int
    value: int


@dataclass(frozen=True)
class Pool(Layer):
    """MAX_POOL_2D or AVERAGE_POOL_2D; values outside the input take no part.

    Attributes:
        average: the mean, not the maximum.
        window: height and width.
        stride: down and across.
        before: rows above and columns to the left that the first window reaches outside.
        limits: the least and greatest output.
    """

    average: bool
    window: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    limits: tuple[int, int]


@dataclass(frozen=True)
class Sums(Layer):
    """The base of layers that sum weighted inputs.

    Attributes:
        weights: int8, (out, height, width, in).
        bias: int32, (out,); the input's zero point is subtracted in it.
        multipliers: int32, (out,); with `shifts` the factor from sums to outputs.
        shifts: int32, (out,).
        zero_point: of the output.
        limits: the least and greatest output.
        once: rounds once, not twice.
        stride: down and across.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    multipliers: NDArray[np.int32]
    shifts: NDArray[np.int32]
    zero_point: int
    limits: tuple[int, int]
    once: bool
    stride: tuple[int, int]


@dataclass(frozen=True)
class Convolution(Sums):
    """CONV_2D without padding, or FULLY_CONNECTED.

    Attributes:
        pool: height and width of a MAX_POOL_2D that follows. Rounding never changes an order, so
            the maximum of the sums is found first, and it alone is rounded.
    """

    pool: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Depthwise(Sums):
    """DEPTHWISE_CONV_2D without padding: a filter for each channel, so `in` is 1."""


@dataclass(frozen=True)
class Lookup(Layer):
    """QUANTIZE or TANH: an output for each int8 value, -128 to 127."""

    table: NDArray[np.int8]


@dataclass(frozen=True)
class Softmax(Layer):
    """SOFTMAX: the exponentials by distance from the greatest input, in Q0.31."""

    exponentials: NDArray[np.int32]
