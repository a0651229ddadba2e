"""The C of a network: templates, filled with the layers' shapes and constants."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_lenet.deploy import fill
from keras_lenet.deploy.c import (
    Convolution,
    Depthwise,
    Layer,
    Lookup,
    Pad,
    Pool,
    Resize,
    Softmax,
    Sums,
)  # fmt: skip

_LANES = 16
"""Rows of weights end in zeros up to a multiple of this: vectors leave no remainder."""
_SUMS = 8
"""Sums that are added up side by side: as many as registers hold."""

_Values = dict[str, object]


@dataclass(frozen=True)
class Plan:
    """The places of a network's activations in one buffer.

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


def plan(network: tuple[Layer, ...]) -> Plan:
    """Lay a network's activations out; the first input and the last output are the caller's."""
    layers = network[:-1]
    sizes = [math.prod(layer.target) for layer in layers]
    values = max(size + before for size, before in zip(sizes, [0, *sizes], strict=False))
    places = [0 if number % 2 == 0 else values - size for number, size in enumerate(sizes)]
    patches = [patch(layer).size for layer in layers if isinstance(layer, Convolution)]
    # An array has at least one element. The int16 beside the buffer keep its size even.
    return Plan(tuple(places), values + values % 2, max(patches, default=1))


@dataclass(frozen=True)
class Patch:
    """The layout of the pixels under a convolution's filter, for all windows of a maximum.

    Windows one above the other share the rows that both cover. Windows side by side share one strip
    where the zeros between the rows of weights cost no longer rows; otherwise each has its own.

    Attributes:
        line: values in a row of a strip, and weights in a row of a filter.
        rows: of each strip.
        strips: their number.
        windows: the place where each begins.
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


def emit(name: str, title: str, network: tuple[Layer, ...], threshold: float) -> dict[str, str]:
    """Return the header and the C file, by their names.

    Args:
        name: prefix of every identifier.
        title: a line that names the model.
        network: the layers, from `lowering.read`.
        threshold: the least probability that is accepted, 0 to 1.
    """
    layout = plan(network)
    functions, calls, place = [], [], "image"
    for number, layer in enumerate(network, 1):
        function = f"{type(layer).__name__.lower()}_{number}"
        functions.append(_function(layer, function, number == 1))
        if not isinstance(layer, Softmax):
            target = f"scratch.values + {layout.places[number - 1]}"
            calls.append(f"{function}({place}, {target});")
            place = target
    # The least output that is not below the threshold, exactly: 256 is a power of two.
    least = math.ceil(256 * threshold)
    values = {
        "name": name,
        "title": title,
        "scratch": layout.bytes,
        "least": least,
        "threshold": least - 128,
        "patch": layout.patch,
        "values": layout.values,
        "helpers": _helpers(functions),
        "functions": "\n".join(functions),
        "calls": "\n".join(calls),
        "logits": place,
        "softmax": function,
    }
    return {f"{name}.{suffix}": fill(f"c/network.{suffix}", **values) for suffix in ("h", "c")}


def _helpers(functions: list[str]) -> str:
    """Return the small functions that are called: compilers warn of others.

    In their file each may call those before it.
    """
    called: list[str] = []
    for helper in reversed(fill("c/helpers.c").rstrip().split("\n\n")):
        name = re.findall(r"static inline \w+ (\w+\()", helper)[0]
        if any(name in other for other in (*functions, *called)):
            called.insert(0, helper)
    return "\n\n".join(called)


def _function(layer: Layer, name: str, first: bool) -> str:
    """Return the C of one layer: its constants, and a function from its input to its output.

    Args:
        layer: the layer.
        name: of the function, and prefix of its constants.
        first: its input are the pixels; the network takes each as the int8 `pixel - 128`.
    """
    height, width, depth = layer.source
    down, across, channels = layer.target
    values: _Values = {
        "name": name,
        "type": "uint8_t" if first else "int8_t",
        "shapes": " to ".join("x".join(map(str, shape)) for shape in (layer.source, layer.target)),
        "height": height,
        "width": width,
        "depth": depth,
        "line": width * depth,
        "size": height * width * depth,
        "down": down,
        "across": across,
        "channels": channels,
    }
    values |= _VALUES[type(layer)](layer, name)
    text = fill(f"c/{type(layer).__name__.lower()}.c", **values)
    return re.sub(r"READ\((.+?\])\)", r"(\1 - 128)" if first else r"\1", text)


def _arrays(name: str, *arrays: tuple[str, str, ArrayLike]) -> str:
    """Return constant arrays, each given by its type, its name and its values."""
    return "\n".join(_array(kind, f"{name}_{what}", values) for kind, what, values in arrays)


def _array(kind: str, name: str, values: ArrayLike) -> str:
    """Return a constant array, in lines of at most 100 characters."""
    lines, line = [], "   "
    flat = np.asarray(values).ravel().tolist()
    for value in flat:
        # INT32_MIN has no literal of its own type.
        text = " (-2147483647 - 1)," if value == -(2**31) else f" {value},"
        if len(line) + len(text) > 100:
            lines.append(line)
            line = "   "
        line += text
    rows = "\n".join([*lines, line])
    return f"static const {kind} {name}[{len(flat)}] = {{\n{rows}\n}};"


def _resize(layer: Resize, name: str) -> _Values:
    _, width, depth = layer.source
    arrays = _arrays(
        name,
        ("int32_t", "row", [width * depth * row for row in layer.rows[0]]),
        ("int16_t", "row_weight", layer.rows[1]),
        ("int32_t", "column", [depth * column for column in layer.columns[0]]),
        ("int16_t", "column_weight", layer.columns[1]),
    )
    return {"arrays": arrays}


def _pad(layer: Pad, name: str) -> _Values:
    down, across, depth = layer.target
    return {
        "size": down * across * depth,
        "start": (layer.top * across + layer.left) * depth,
        "target_line": across * depth,
        "value": layer.value,
    }


def _pool(layer: Pool, name: str) -> _Values:
    _, width, depth = layer.source
    value = f"READ(input[(i * {width} + j) * {depth} + c])"
    kind: _Values = {
        "op": "MAX_POOL_2D",
        "start": -128,
        "change": f"found = larger(found, {value});",
        "finish": "",
    }
    if layer.average:
        kind = {
            "op": "AVERAGE_POOL_2D",
            "start": 0,
            "change": f"found += {value};",
            "finish": "const int32_t count = (bottom - top) * (right - left);\n"
            "found = (found > 0 ? found + count / 2 : found - count / 2) / count;",
        }
    return kind | {
        "tall": layer.window[0],
        "wide": layer.window[1],
        "step_y": layer.stride[0],
        "step_x": layer.stride[1],
        "top": layer.before[0],
        "left": layer.before[1],
        "low": layer.limits[0],
        "high": layer.limits[1],
    }


def _sums(layer: Sums, name: str, weights: NDArray[np.int8]) -> _Values:
    """Return the values that convolutions have in common; the weights are laid out."""
    arrays: list[tuple[str, str, ArrayLike]] = [
        ("int8_t", "weights", weights),
        ("int32_t", "bias", layer.bias),
        ("int32_t", "multiplier", layer.multipliers),
        ("int8_t", "shift", -layer.shifts if layer.once else np.maximum(-layer.shifts, 0)),
    ]
    if _shifts_left(layer):
        arrays.append(("int8_t", "left", np.maximum(layer.shifts, 0)))
    return {
        "arrays": _arrays(name, *arrays),
        "tall": layer.weights.shape[1],
        "wide": layer.weights.shape[2],
        "filter": weights[0].size,
        "row_step": layer.stride[0] * layer.source[1],
        "column_step": layer.stride[1],
        "offset": f"{'-' if layer.zero_point < 0 else '+'} {abs(layer.zero_point)}",
        "low": layer.limits[0],
        "high": layer.limits[1],
    }


def _shifts_left(layer: Sums) -> bool:
    """Return whether sums are shifted before they are scaled, as double rounding may need."""
    return not layer.once and bool(layer.shifts.max() > 0)


def _shifted(layer: Sums, value: str, bits: str) -> str:
    return f"({value}) * (1 << {bits})" if _shifts_left(layer) else value


def _depthwise(layer: Depthwise, name: str) -> _Values:
    return _sums(layer, name, layer.weights) | {"total": _shifted(layer, "sum", f"{name}_left[c]")}


def _convolution(layer: Convolution, name: str) -> _Values:
    """Return the values of a convolution.

    Its inner loop adds up several sums: of `block` output channels, `o`, at all windows, `p`, of
    the maximum that follows.
    """
    channels, tall, wide, _ = layer.weights.shape
    _, width, depth = layer.source
    laid, pool = patch(layer), layer.pool
    rows = np.zeros((channels, tall, laid.line), np.int8)
    rows[:, :, : wide * depth] = layer.weights.reshape(channels, tall, -1)
    weights = np.zeros((channels, laid.weights), np.int8)
    weights[:, : tall * laid.line] = rows.reshape(channels, -1)
    common = _sums(layer, name, weights)
    windows = len(laid.windows)
    block = max(n for n in range(1, _SUMS // windows + 1) if channels % n == 0)
    gather, declare, add, store = [], [], [], []
    for strip in range(laid.strips):
        corner = f"corner[{strip * layer.stride[1] * depth} + i * {width * depth} + j]"
        start = strip * laid.rows * laid.line
        gather.append(f"patch[{start} + i * {laid.line} + j] = (int16_t)READ({corner});")
    load = [f"const int16_t pixel{p} = patch[k + {at}];" for p, at in enumerate(laid.windows)]
    load += [f"const int16_t weight{o} = weights[k + {o * laid.weights}];" for o in range(block)]
    for o in range(block):
        sums = [f"sum{o}{p}" for p in range(windows)]
        declare.append(f"int32_t {' = 0, '.join(sums)} = 0;")
        add += [f"{total} += weight{o} * pixel{p};" for p, total in enumerate(sums)]
        most = sums[0]
        for other in sums[1:]:
            most = f"larger({most}, {other})"
        most = _shifted(layer, f"{most} + {name}_bias[o + {o}]", f"{name}_left[o + {o}]")
        scale = "scale_once" if layer.once else "scale_twice"
        factor = f"{name}_multiplier[o + {o}], {name}_shift[o + {o}]"
        limits = f"{common['low']}, {common['high']}"
        store += [
            f"sum{o}0 = {most};",
            f"sum{o}0 = {scale}(sum{o}0, {factor});",
            f"output[o + {o}] = limit(sum{o}0 {common['offset']}, {limits});",
        ]
    return common | {
        "pooled": f", the greatest of each {pool[0]}x{pool[1]}" if windows > 1 else "",
        "row_step": pool[0] * layer.stride[0] * width,
        "column_step": pool[1] * layer.stride[1],
        "rows": laid.rows,
        "patch_line": laid.line,
        "block": block,
        "gather": "\n".join(gather),
        "declare": "\n".join(declare),
        "load": "\n".join(load),
        "add": "\n".join(add),
        "store": "\n".join(store),
    }


def _lookup(layer: Lookup, name: str) -> _Values:
    return {"arrays": _arrays(name, ("int8_t", "table", layer.table))}


def _softmax(layer: Softmax, name: str) -> _Values:
    exponentials = ("int32_t", "exponentials", layer.exponentials)
    return {"arrays": _arrays(name, exponentials), "count": len(layer.exponentials)}


_VALUES: dict[type[Layer], Callable[..., _Values]] = {
    Convolution: _convolution,
    Depthwise: _depthwise,
    Lookup: _lookup,
    Pad: _pad,
    Pool: _pool,
    Resize: _resize,
    Softmax: _softmax,
}
