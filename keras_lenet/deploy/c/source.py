"""The C of a network: constants, one function a layer, and the three that are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.deploy.c.graph import (
    Convolution,
    Depthwise,
    Layer,
    Lookup,
    Network,
    Pad,
    Pool,
    Resize,
    Softmax,
    Sums,
)

_LANES = 16
"""Rows of weights end in zeros up to a multiple of this: vectors leave no remainder."""
_SUMS = 8
"""How many sums are added up side by side: as many as registers hold."""


@dataclass(frozen=True)
class Plan:
    """Where a network's activations lie in one buffer.

    A layer reads at one end and writes at the other, and the next one the other way around.

    Attributes:
        places: of each layer's output, in bytes from the beginning of the buffer.
        values: bytes of the buffer.
        patch: int16 values that convolutions gather besides.
    """

    places: tuple[int, ...]
    values: int
    patch: int

    @property
    def bytes(self) -> int:
        """All of the scratch memory."""
        return 2 * self.patch + self.values


def plan(network: Network) -> Plan:
    """Lay a network's activations out; the last layer's output is the caller's own."""
    layers = network.layers[:-1]
    sizes = [math.prod(layer.target) for layer in layers]
    # The image that the first layer reads is the caller's.
    pairs = [0, *sizes]
    values = max(size + before for size, before in zip(sizes, pairs, strict=False))
    places, low = [], True
    for size in sizes:
        places.append(0 if low else values - size)
        low = not low
    patches = [patch(layer).size for layer in layers if isinstance(layer, Convolution)]
    # An array has an element at least, and what holds int16 an even number of bytes.
    return Plan(tuple(places), values + values % 2, max(patches, default=1))


@dataclass(frozen=True)
class Patch:
    """How a convolution lays the pixels under its filter out, for all windows of a maximum.

    Windows one above the other share the rows that both cover; those side by side share one strip
    too, if zeros between the rows of weights cost no longer rows, or have a strip each.

    Attributes:
        line: values in a row of a strip, and weights in a row of a filter.
        rows: of each strip.
        strips: how many.
        windows: where each begins.
        weights: of one filter, with the zeros.
    """

    line: int
    rows: int
    strips: int
    windows: tuple[int, ...]
    weights: int

    @property
    def size(self) -> int:
        """Values in all; the zeros at a filter's end meet some as well."""
        return max(self.windows) + self.weights


def patch(layer: Convolution) -> Patch:
    """Lay the patch of a convolution out."""
    _, tall, wide, depth = layer.weights.shape
    (step_y, step_x), (pool_y, pool_x) = layer.stride, layer.pool
    narrow, broad = wide * depth, (wide + (pool_x - 1) * step_x) * depth
    shared = _whole(tall * broad) == _whole(tall * narrow)
    line, rows = broad if shared else narrow, tall + (pool_y - 1) * step_y
    across = step_x * depth if shared else rows * line
    windows = [i * step_y * line + j * across for i in range(pool_y) for j in range(pool_x)]
    return Patch(line, rows, 1 if shared else pool_x, tuple(windows), _whole(tall * line))


def _whole(size: int) -> int:
    return -(-size // _LANES) * _LANES


def header(name: str, title: str, network: Network, threshold: float) -> str:
    """Return the header file.

    Args:
        name: prefix of every identifier.
        title: a line that says what the model is.
        network: the model.
        threshold: the least probability that is accepted, 0 to 1.
    """
    capitals = name.upper()
    # The least output that is not below the threshold, exactly: 256 is a power of two.
    least = math.ceil(256 * threshold)
    return f"""\
/* {title}
   Integers only, of 32 bits at least; nothing but <stdint.h> is needed. */

#ifndef {capitals}_H
#define {capitals}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* Static memory that the functions share: one call at a time. */
#define {capitals}_SCRATCH_BYTES {plan(network).bytes}

/* The least probability of an accepted class, as (value + 128) / 256: {least}/256. */
#define {capitals}_THRESHOLD ({least - 128})

/* An image is 28 rows of 28 pixels, 0 = background, 255 = ink. */

/* The likeliest class, 0 to 9; -1: its probability is below the threshold, so the image shows none
   of the classes. */
int {name}_classify(const uint8_t image[784]);

/* Of each class: probability = (value + 128) / 256. */
void {name}_probabilities(const uint8_t image[784], int8_t probabilities[10]);

/* What the softmax makes the probabilities of. */
void {name}_logits(const uint8_t image[784], int8_t logits[10]);

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(name: str, title: str, network: Network) -> str:
    """Return the C file; arguments as for `header`."""
    layout = plan(network)
    functions, calls, place = [], [], "image"
    for number, layer in enumerate(network.layers, 1):
        kind = type(layer).__name__.lower()
        function = f"{kind}_{number}"
        pixels = number == 1
        functions.append(_EMITTERS[type(layer)](layer, function, _reader(pixels), pixels))
        if isinstance(layer, Softmax):
            softmax, logits = function, place
            continue
        target = f"scratch.values + {layout.places[number - 1]}"
        calls.append(f"    {function}({place}, {target});")
        place = target
    return f"""\
/* {title} */

#include "{name}.h"

/* One image's activations, and the pixels under a filter, for windows side by side. */
static struct {{
    int16_t patch[{layout.patch}];
    int8_t values[{layout.values}];
}} scratch;

/* Compile-time checks: an array cannot have a negative size. */
typedef char size_is_as_promised[sizeof scratch == {name.upper()}_SCRATCH_BYTES ? 1 : -1];
typedef char int_has_32_bits[sizeof(int) >= 4 ? 1 : -1];
typedef char shifts_keep_the_sign[-1 >> 1 == -1 ? 1 : -1];

{_helpers(functions)}
{chr(10).join(functions)}
static const int8_t *run(const uint8_t *image)
{{
{chr(10).join(calls)}
    return {logits};
}}

void {name}_logits(const uint8_t image[784], int8_t logits[10])
{{
    const int8_t *found = run(image);
    for (int i = 0; i < 10; ++i) {{
        logits[i] = found[i];
    }}
}}

void {name}_probabilities(const uint8_t image[784], int8_t probabilities[10])
{{
    {softmax}(run(image), probabilities);
}}

int {name}_classify(const uint8_t image[784])
{{
    int8_t probabilities[10];
    int best = 0, greatest;
    {name}_probabilities(image, probabilities);
    for (int i = 1; i < 10; ++i) {{
        if (probabilities[i] > probabilities[best]) {{
            best = i;
        }}
    }}
    greatest = probabilities[best];
    return greatest < {name.upper()}_THRESHOLD ? -1 : best;
}}
"""


_HELPERS = {
    "smaller": """\
static inline int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
""",
    "larger": """\
static inline int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}
""",
    "high_multiply": """\
/* a * b / 2^31, rounded to nearest. */
static inline int32_t high_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}
""",
    "round_shift": """\
/* value / 2^bits, rounded to nearest, ties away from zero. */
static inline int32_t round_shift(int32_t value, int bits)
{
    const int32_t mask = (int32_t)((1u << bits) - 1u);
    return (value >> bits) + ((value & mask) > (mask >> 1) + (value < 0));
}
""",
    "scale_twice": """\
/* sum * multiplier / 2^(31 + shift), rounded twice, as TensorFlow Lite's convolutions do. */
static inline int32_t scale_twice(int32_t sum, int32_t multiplier, int shift)
{
    return round_shift(high_multiply(sum, multiplier), shift);
}
""",
    "scale_once": """\
/* The same, rounded once, ties away from zero, as its fully connected layers do. */
static inline int32_t scale_once(int32_t sum, int32_t multiplier, int shift)
{
    const int64_t half = (int64_t)1 << (30 + shift);
    return (int32_t)(((int64_t)sum * multiplier + half - (sum < 0)) >> (31 + shift));
}
""",
    "limit": """\
static inline int8_t limit(int32_t value, int32_t least, int32_t greatest)
{
    return (int8_t)smaller(larger(value, least), greatest);
}
""",
}
"""Small functions, by name; each may call those before it."""


def _helpers(functions: list[str]) -> str:
    """The small functions that are called: compilers warn of others."""
    called: list[str] = []
    for name, text in reversed(_HELPERS.items()):
        if any(f"{name}(" in other for other in (*functions, *called)):
            called.insert(0, text)
    return "\n".join(called)


def _reader(pixels: bool) -> Callable[[str], str]:
    """How an input is read: pixels as the int8 that the network takes."""
    return (lambda place: f"({place} - 128)") if pixels else (lambda place: place)


def _array(kind: str, name: str, values: NDArray[np.generic] | Iterable[int]) -> str:
    """A constant array, in lines of at most 100 characters."""
    lines, line = [], "   "
    flat = np.asarray(values).ravel().tolist()
    for value in flat:
        # INT32_MIN has no literal of its own type.
        text = " (-2147483647 - 1)," if value == -(2**31) else f" {value},"
        if len(line) + len(text) > 100:
            lines.append(line)
            line = "   "
        line += text
    lines.append(line)
    return f"static const {kind} {name}[{len(flat)}] = {{\n{chr(10).join(lines)}\n}};\n"


def _indented(lines: Iterable[str], spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in lines)


def _signature(function: str, pixels: bool) -> str:
    kind = "uint8_t" if pixels else "int8_t"
    return f"static void {function}(const {kind} *input, int8_t *output)"


def _dimensions(layer: Layer) -> str:
    sides = ["x".join(map(str, shape)) for shape in (layer.source, layer.target)]
    return f"{sides[0]} to {sides[1]}"


def _resize(layer: Resize, function: str, read: Callable[[str], str], pixels: bool) -> str:
    _, width, depth = layer.source
    height, across, _ = layer.target
    kind = "uint8_t" if pixels else "int8_t"
    arrays = "".join(
        _array(kind, f"{function}_{name}", values)
        for kind, name, values in (
            ("int32_t", "row", [width * depth * row for row in layer.rows[0]]),
            ("int16_t", "row_weight", layer.rows[1]),
            ("int32_t", "column", [depth * column for column in layer.columns[0]]),
            ("int16_t", "column_weight", layer.columns[1]),
        )
    )
    line = width * depth
    return f"""\
{arrays}
/* RESIZE_BILINEAR, {_dimensions(layer)}; weights of 1024, first down, then across. */
{_signature(function, pixels)}
{{
    for (int y = 0; y < {height}; ++y) {{
        const {kind} *from = input + {function}_row[y];
        const int32_t below = {function}_row_weight[y], above = 1024 - below;
        int32_t mixed[{line}];
        for (int i = 0; i < {line}; ++i) {{
            mixed[i] = {read("from[i]")} * above + {read(f"from[i + {line}]")} * below;
        }}
        for (int x = 0; x < {across}; ++x) {{
            const int32_t right = {function}_column_weight[x], left = 1024 - right;
            for (int i = {function}_column[x]; i < {function}_column[x] + {depth}; ++i) {{
                *output++ = (int8_t)round_shift(mixed[i] * left + mixed[i + {depth}] * right, 20);
            }}
        }}
    }}
}}
"""


def _pad(layer: Pad, function: str, read: Callable[[str], str], pixels: bool) -> str:
    height, width, depth = layer.source
    down, across, _ = layer.target
    size, start = down * across * depth, (layer.top * across + layer.left) * depth
    return f"""\
/* PAD, {_dimensions(layer)}. */
{_signature(function, pixels)}
{{
    for (int i = 0; i < {size}; ++i) {{
        output[i] = {layer.value};
    }}
    for (int y = 0; y < {height}; ++y) {{
        for (int i = 0; i < {width * depth}; ++i) {{
            output[{start} + y * {across * depth} + i] =
                (int8_t){read(f"input[y * {width * depth} + i]")};
        }}
    }}
}}
"""


def _pool(layer: Pool, function: str, read: Callable[[str], str], pixels: bool) -> str:
    height, width, depth = layer.source
    down, across, _ = layer.target
    (tall, wide), (step_y, step_x), (top, left) = layer.window, layer.stride, layer.before
    low, high = layer.limits
    value = read(f"input[(i * {width} + j) * {depth} + c]")
    if layer.average:
        name, start, change = "AVERAGE_POOL_2D", "0", f"found += {value};"
        finish = """
                const int32_t count = (bottom - top) * (right - left);
                found = (found > 0 ? found + count / 2 : found - count / 2) / count;"""
    else:
        name, start, change, finish = "MAX_POOL_2D", "-128", f"found = larger(found, {value});", ""
    return f"""\
/* {name}, {_dimensions(layer)}. */
{_signature(function, pixels)}
{{
    for (int y = 0; y < {down}; ++y) {{
        const int top = larger(y * {step_y} - {top}, 0);
        const int bottom = smaller(y * {step_y} - {top} + {tall}, {height});
        for (int x = 0; x < {across}; ++x) {{
            const int left = larger(x * {step_x} - {left}, 0);
            const int right = smaller(x * {step_x} - {left} + {wide}, {width});
            for (int c = 0; c < {depth}; ++c) {{
                int32_t found = {start};
                for (int i = top; i < bottom; ++i) {{
                    for (int j = left; j < right; ++j) {{
                        {change}
                    }}
                }}{finish}
                *output++ = limit(found, {low}, {high});
            }}
        }}
    }}
}}
"""


def _convolution(
    layer: Convolution, function: str, read: Callable[[str], str], pixels: bool
) -> str:
    channels, tall, wide, _ = layer.weights.shape
    _, width, depth = layer.source
    down, across, _ = layer.target
    (step_y, step_x), (pool_y, pool_x) = layer.stride, layer.pool
    laid = patch(layer)
    lines = np.zeros((channels, tall, laid.line), np.int8)
    lines[:, :, : wide * depth] = layer.weights.reshape(channels, tall, -1)
    weights = np.zeros((channels, laid.weights), np.int8)
    weights[:, : tall * laid.line] = lines.reshape(channels, -1)
    arrays = _constants(layer, function, weights)
    gather = []
    for strip in range(laid.strips):
        place = f"corner[{strip * step_x * depth} + i * {width * depth} + j]"
        start = strip * laid.rows * laid.line
        gather.append(f"patch[{start} + i * {laid.line} + j] = (int16_t){read(place)};")
    windows = len(laid.windows)
    block = max(n for n in range(1, _SUMS // windows + 1) if channels % n == 0)
    sums = [[f"sum{o}{p}" for p in range(windows)] for o in range(block)]
    declare = [f"int32_t {' = 0, '.join(names)} = 0;" for names in sums]
    load = [f"const int16_t pixel{p} = patch[k + {at}];" for p, at in enumerate(laid.windows)]
    load += [f"const int16_t weight{o} = weights[k + {o * laid.weights}];" for o in range(block)]
    add = [
        f"{name} += weight{o} * pixel{p};"
        for o, names in enumerate(sums)
        for p, name in enumerate(names)
    ]
    store, scale = [], "scale_once" if layer.once else "scale_twice"
    offset = _offset(layer)
    ends = f"{layer.limits[0]}, {layer.limits[1]}"
    for o, names in enumerate(sums):
        most = names[0]
        for name in names[1:]:
            most = f"larger({most}, {name})"
        most = f"{most} + {function}_bias[o + {o}]"
        factor = f"{function}_multiplier[o + {o}], {function}_shift[o + {o}]"
        store += [
            f"sum{o}0 = {_shifted(layer, most, f'{function}_left[o + {o}]')};",
            f"sum{o}0 = {scale}(sum{o}0, {factor});",
            f"output[o + {o}] = limit(sum{o}0 {offset}, {ends});",
        ]
    kind = "uint8_t" if pixels else "int8_t"
    pooled = f", the greatest of each {pool_y}x{pool_x}" if windows > 1 else ""
    return f"""\
{arrays}
/* Filters of {tall}x{wide}, {_dimensions(layer)}{pooled}. */
{_signature(function, pixels)}
{{
    int16_t *patch = scratch.patch;
    for (int y = 0; y < {down}; ++y) {{
        for (int x = 0; x < {across}; ++x) {{
            const {kind} *corner = input
                + (y * {pool_y * step_y * width} + x * {pool_x * step_x}) * {depth};
            for (int i = 0; i < {laid.rows}; ++i) {{
                for (int j = 0; j < {laid.line}; ++j) {{
{_indented(gather, 20)}
                }}
            }}
            for (int o = 0; o < {channels}; o += {block}) {{
                const int8_t *weights = {function}_weights + o * {laid.weights};
{_indented(declare, 16)}
                for (int k = 0; k < {laid.weights}; ++k) {{
{_indented(load, 20)}
{_indented(add, 20)}
                }}
{_indented(store, 16)}
            }}
            output += {channels};
        }}
    }}
}}
"""


def _constants(layer: Sums, function: str, weights: NDArray[np.int8]) -> str:
    """The arrays of a layer that sums, its weights as they are laid out."""
    arrays: list[tuple[str, str, NDArray[Any]]] = [
        ("int8_t", "weights", weights),
        ("int32_t", "bias", layer.bias),
        ("int32_t", "multiplier", layer.multipliers),
        ("int8_t", "shift", -layer.shifts if layer.once else np.maximum(-layer.shifts, 0)),
    ]
    if _shifts_left(layer):
        arrays.append(("int8_t", "left", np.maximum(layer.shifts, 0)))
    return "".join(_array(kind, f"{function}_{name}", values) for kind, name, values in arrays)


def _shifts_left(layer: Sums) -> bool:
    """Whether sums are shifted before they are scaled, which those that round twice may be."""
    return not layer.once and bool(layer.shifts.max() > 0)


def _shifted(layer: Sums, value: str, bits: str) -> str:
    return f"({value}) * (1 << {bits})" if _shifts_left(layer) else value


def _offset(layer: Sums) -> str:
    return f"{'-' if layer.zero_point < 0 else '+'} {abs(layer.zero_point)}"


def _depthwise(layer: Depthwise, function: str, read: Callable[[str], str], pixels: bool) -> str:
    channels, tall, wide, _ = layer.weights.shape
    _, width, _ = layer.source
    down, across, _ = layer.target
    step_y, step_x = layer.stride
    kind = "uint8_t" if pixels else "int8_t"
    value = read(f"corner[(i * {width} + j) * {channels} + c]")
    total = _shifted(layer, "sum", f"{function}_left[c]")
    return f"""\
{_constants(layer, function, layer.weights)}
/* Filters of {tall}x{wide} of one channel each, {_dimensions(layer)}. */
{_signature(function, pixels)}
{{
    for (int y = 0; y < {down}; ++y) {{
        for (int x = 0; x < {across}; ++x) {{
            const {kind} *corner = input + (y * {step_y * width} + x * {step_x}) * {channels};
            for (int c = 0; c < {channels}; ++c) {{
                const int8_t *weights = {function}_weights + c * {tall * wide};
                int32_t sum = {function}_bias[c];
                for (int i = 0; i < {tall}; ++i) {{
                    for (int j = 0; j < {wide}; ++j) {{
                        sum += weights[i * {wide} + j] * {value};
                    }}
                }}
                sum = scale_twice({total}, {function}_multiplier[c], {function}_shift[c]);
                *output++ = limit(sum {_offset(layer)}, {layer.limits[0]}, {layer.limits[1]});
            }}
        }}
    }}
}}
"""


def _lookup(layer: Lookup, function: str, read: Callable[[str], str], pixels: bool) -> str:
    return f"""\
{_array("int8_t", f"{function}_table", layer.table)}
/* QUANTIZE or TANH, {_dimensions(layer)}. */
{_signature(function, pixels)}
{{
    for (int i = 0; i < {math.prod(layer.source)}; ++i) {{
        output[i] = {function}_table[{read("input[i]")} + 128];
    }}
}}
"""


def _softmax(layer: Softmax, function: str, read: Callable[[str], str], pixels: bool) -> str:
    size, count = layer.source[2], len(layer.exponentials)
    return f"""\
{_array("int32_t", f"{function}_exponentials", layer.exponentials)}
/* SOFTMAX: exponentials in Q0.31, their sum in Q12.19, its reciprocal by Newton and Raphson. */
{_signature(function, pixels)}
{{
    int32_t greatest = -128, sum = 0;
    for (int i = 0; i < {size}; ++i) {{
        greatest = larger(greatest, input[i]);
    }}
    for (int i = 0; i < {size}; ++i) {{
        const int32_t below = greatest - input[i];
        if (below < {count}) {{
            sum += round_shift({function}_exponentials[below], 12);
        }}
    }}
    int zeros = 0;
    while ((uint32_t)sum << zeros < 0x80000000u) {{
        ++zeros;
    }}
    /* 1 / (2 * half) where half is in [1/2, 1), Q0.31; the reciprocal of half is in Q2.29. */
    const int32_t half = (int32_t)((uint32_t)sum << zeros >> 1);
    int32_t reciprocal = 1515870810 + high_multiply(half, -1010580540); /* 48/17 - half * 32/17 */
    for (int i = 0; i < 3; ++i) {{
        const int32_t error = (1 << 29) - high_multiply(half, reciprocal);
        reciprocal += 4 * high_multiply(reciprocal, error);
    }}
    reciprocal = reciprocal < 1 << 30 ? 2 * reciprocal : INT32_MAX;
    for (int i = 0; i < {size}; ++i) {{
        const int32_t below = greatest - input[i];
        int32_t value = 0;
        if (below < {count}) {{
            value = round_shift(high_multiply(reciprocal, {function}_exponentials[below]),
                                35 - zeros);
        }}
        output[i] = (int8_t)smaller(value - 128, 127);
    }}
}}
"""


_EMITTERS: dict[type[Layer], Callable[..., str]] = {
    Convolution: _convolution,
    Depthwise: _depthwise,
    Lookup: _lookup,
    Pad: _pad,
    Pool: _pool,
    Resize: _resize,
    Softmax: _softmax,
}
