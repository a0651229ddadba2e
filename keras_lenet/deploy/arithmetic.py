"""The arithmetic of LiteRT's reference kernels in integers, and the constants it needs.

A real factor is an int32 multiplier with 31 fractional bits and a power of two. Most kernels round
twice, as gemmlowp has it and TFLite without TFLITE_SINGLE_ROUNDING: the product's upper half to
nearest, ties up; then the right shift to nearest, ties away from zero. FULLY_CONNECTED multiplies
in float64 and rounds once, ties away from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.errors import Error

INT8 = (-128, 127)
_LIMITS = np.iinfo(np.int32)

_SOFTMAX_BITS = 5
"""Integer bits of softmax's exponents: Q5.26."""
_SUM_BITS = 12
"""Integer bits of softmax's sum: Q12.19."""
_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-1/4), exp(-1/2), exp(-1), … exp(-16) in Q0.31."""


def quantize_multiplier(factor: float) -> tuple[int, int]:
    """Return a factor ≥ 0 as (multiplier, shift): about multiplier · 2^(shift − 31)."""
    fraction, shift = math.frexp(factor)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def multiply(value: int, multiplier: int, shift: int) -> int:
    """Return `value` times the factor of `quantize_multiplier`, rounded twice."""
    return round_shift(high_multiply(value << max(shift, 0), multiplier), max(-shift, 0))


def single_rounding(factor: float, least: int, greatest: int, largest: int) -> tuple[int, int]:
    """Return a multiplier and shift whose product, rounded once, is that of a float64 factor.

    Both are compared at every step of the output: there is no sum where they could differ.

    Args:
        factor: greater than 0.
        least: the lower clamp of the output.
        greatest: the upper clamp of the output.
        largest: the greatest absolute value of a sum.

    Raises:
        Error: no multiplier of 31 bits rounds so.
    """
    steps = np.arange(least + 1, greatest + 1)

    def thresholds(rounded: Callable[[NDArray[np.int64]], NDArray[Any]]) -> NDArray[np.int64]:
        """Return the least sum that reaches each step."""
        near = np.clip(np.floor((steps - 0.5) / factor), -largest - 1, largest + 1)
        sums = near.astype(np.int64)[:, np.newaxis] + np.arange(-2, 4)
        first = (rounded(sums) < steps[:, np.newaxis]).sum(axis=1)
        return np.clip(sums[:, 0] + first, -largest, largest + 1)

    def exact(sums: NDArray[np.int64]) -> NDArray[Any]:
        real = sums * factor
        return np.copysign(np.floor(np.abs(real) + 0.5), real)

    multiplier, shift = quantize_multiplier(factor)
    half = 1 << (30 - shift)
    wanted = thresholds(exact)
    for change in sorted(range(-32, 33), key=abs):
        changed = multiplier + change

        def integer(sums: NDArray[np.int64], changed: int = changed) -> NDArray[np.int64]:
            return (sums * changed + half - (sums < 0)) >> (31 - shift)

        if changed <= _LIMITS.max and (thresholds(integer) == wanted).all():
            return changed, shift
    raise Error(f"no multiplier of 31 bits rounds as the factor {factor} does")


def high_multiply(a: int, b: int) -> int:
    """Return a·b / 2^31, ties up: the saturating rounding doubling high multiply."""
    return min((a * b + (1 << 30)) >> 31, _LIMITS.max)


def round_shift(value: int, bits: int) -> int:
    """Return `value` / 2^bits, ties away from zero."""
    return (value + (1 << bits >> 1) - (value < 0 < bits)) >> bits


def round_half_away(value: np.float32) -> int:
    """Round to nearest, ties away from zero, as C's round() does."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def requantization(
    input_scale: float, input_zero: int, output_scale: float, output_zero: int
) -> NDArray[np.int8]:
    """Return the output of QUANTIZE for each int8 value, -128 to 127; int8, (256,)."""
    multiplier, shift = quantize_multiplier(input_scale / output_scale)
    return _table(lambda value: multiply(value - input_zero, multiplier, shift) + output_zero)


def tanh(
    input_scale: float, input_zero: int, output_scale: float, output_zero: int
) -> NDArray[np.int8]:
    """Return the output of TANH for each int8 value, -128 to 127; int8, (256,).

    TFLite makes the same table.
    """
    inverse = np.float32(1) / np.float32(output_scale)

    def entry(value: int) -> int:
        real = np.float32(input_scale) * np.float32(value - input_zero)
        return round_half_away(np.float32(math.tanh(real)) * inverse) + output_zero

    return _table(entry)


def _table(function: Callable[[int], int]) -> NDArray[np.int8]:
    return np.clip([function(value) for value in range(-128, 128)], *INT8).astype(np.int8)


def exponentials(input_scale: float, beta: float) -> NDArray[np.int32]:
    """Return exp(−beta · input_scale · n) in Q0.31, for inputs n units below the greatest.

    Returns:
        int32, up to the last that is not 0: exponentials of lesser inputs round to 0 in softmax's
        sum and output alike.
    """
    factor = min(beta * input_scale * 2 ** (31 - _SOFTMAX_BITS), 2**31 - 1.0)
    multiplier, shift = quantize_multiplier(factor)
    # Beyond this the shift would overflow, and TFLite answers 0.
    radius = math.floor((2**_SOFTMAX_BITS - 1) * 2 ** (31 - _SOFTMAX_BITS) / 2**shift)
    found = [_exponential(multiply(-n, multiplier, shift)) for n in range(min(radius, 255) + 1)]
    counted = [value for value in found if round_shift(value, _SUM_BITS) > 0]
    return np.array(counted, np.int32)


def _exponential(value: int) -> int:
    """Return exp of a value ≤ 0 in Q5.26, as Q0.31: gemmlowp's exp_on_negative_values."""
    if value == 0:
        return int(_LIMITS.max)
    quarter = 1 << 24
    within = (value & (quarter - 1)) - quarter  # [-1/4, 0) in Q5.26
    x = (within << _SOFTMAX_BITS) + (1 << 28)  # around -1/8, in Q0.31
    x2 = high_multiply(x, x)
    x3, x4 = high_multiply(x2, x), high_multiply(x2, x2)
    series = round_shift(high_multiply(round_shift(x4, 2) + x3, 715827883) + x2, 1)
    result = 1895147668 + high_multiply(1895147668, x + series)  # exp(-1/8), in Q0.31
    for bit, power in enumerate(_POWERS):
        if (within - value) >> (24 + bit) & 1:
            result = high_multiply(result, power)
    return result


def interpolation(size: int, target: int) -> tuple[list[int], list[int]]:
    """Return the inputs of RESIZE_BILINEAR along one axis, with half-pixel centres.

    Args:
        size: length of the input, at least 2.
        target: length of the output.

    Returns:
        For each output the lower of two neighbouring inputs, and 1024 times the weight of the upper
        one.
    """
    scale = (1024 * size + target // 2) // target
    lower, weights = [], []
    for position in range(target):
        place = position * scale + scale // 2 - 512
        place = min(max(place, 0), 1024 * (size - 1))
        lower.append(min(place // 1024, size - 2))
        weights.append(place - 1024 * lower[-1])
    return lower, weights
