"""An int8 .tflite as C99 that needs nothing but a compiler: integers only, no interpreter.

`lowering` reads the file to layers. This module fills the templates with their shapes and
constants, and writes the folder: the C, a test with vectors, a Makefile, an example and a page.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_lenet.artifacts import digest
from keras_lenet.deploy import bare_name, fill, footprint, lowering, write_files
from keras_lenet.deploy.lowering import Convolution, Layer
from keras_lenet.deploy.tflm import ATTRIBUTION, golden_images
from keras_lenet.edge.classifier import Classifier
from keras_lenet.tflite import inspection

_LANES = 16
"""Filters end in zeros up to a multiple of this, so that vectorized loops leave no remainder."""
_SUMS = 8
"""Sums that the inner loop adds up side by side: as many as registers hold."""


def write(model: Path, folder: Path) -> None:
    """Generate C from an int8 .tflite into `folder`.

    Args:
        model: an int8 digit classifier.
        folder: where to write.

    Raises:
        Error: the file can't be read, or no C is generated for its ops; nothing is written.
    """
    network = lowering.read(model)
    # A C identifier, which begins with a letter.
    name = re.sub(r"\W", "_", bare_name(model), flags=re.ASCII).lower()
    name = name if name[:1].isalpha() else f"model_{name}"
    title = f"{model.name}, SHA-256 {digest(model.read_bytes())}"
    classifier = Classifier(model, kernels="reference")
    files = emit(name, title, network, classifier.threshold)
    patch_size, activations = _scratch(network)
    report = inspection.inspect(model)
    images, names = golden_images()
    pixels = [",\n".join(f"    {_comma(row)}" for row in image) for image in images.tolist()]
    outputs = classifier.raw(images, batch_size=1).tolist()
    values = {
        "name": name,
        "model": model.name,
        "bytes": f"{report.bytes:,}",
        "ops": ", ".join(op.name for op in report.ops),
        "vectors": len(images),
        "scratch": f"{2 * patch_size + activations:,}",
        "measured": footprint.of_c(name, files),
        "attribution": ATTRIBUTION,
        "names": ",\n".join(f'"{text}"' for text in names),
        "images": ",\n".join(f"{{\n{rows}\n}}" for rows in pixels),
        "answers": ",\n".join(f"{{{_comma(row)}}}" for row in outputs),
    }
    files[f"{name}_test.c"] = fill("c/test.c", **values)
    files[f"{name}_example/{name}_example.ino"] = fill("c/example.ino", **values)
    files["Makefile"] = fill("c/Makefile", **values)
    files["README.md"] = fill("c/README.md", **values)
    write_files(folder, files)


def _comma(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _scratch(network: tuple[Layer, ...]) -> tuple[int, int]:
    """Return the sizes of the static memory: int16 values of the patch, bytes of activations.

    A layer reads at one end of the activations' buffer and writes at the other; the next layer does
    the opposite. The first input and the last output are the caller's.
    """
    layers = network[:-1]
    sizes = [math.prod(layer.target) for layer in layers]
    activations = max(size + before for size, before in zip(sizes, [0, *sizes], strict=False))
    patches = [patch(layer).size for layer in layers if isinstance(layer, Convolution)]
    # An array has at least one element. The int16 beside the buffer keep its size even.
    return max(patches, default=1), activations + activations % 2


@dataclass(frozen=True)
class Patch:
    """The layout of the pixels under a convolution's filter, for all windows of a maximum.

    Windows one above the other share the rows that both cover. Windows side by side share one strip
    where the zeros between the rows of weights cost no longer rows; otherwise each has its own.

    Attributes:
        line: values in a row of a strip, and weights in a row of a filter.
        rows: number of rows of each strip.
        strips: number of strips.
        windows: place of each window's first value.
        weights: number of weights of one filter, with the zeros.
    """

    line: int
    rows: int
    strips: int
    windows: tuple[int, ...]
    weights: int

    @property
    def size(self) -> int:
        """Number of values; the zeros at a filter's end meet some as well."""
        return max(self.windows) + self.weights


def patch(layer: Convolution) -> Patch:
    """Plan the patch of a convolution."""
    _, tall, wide, depth = layer.weights.shape
    (step_y, step_x), (pool_y, pool_x) = layer.stride, layer.pool
    narrow, broad = wide * depth, (wide + (pool_x - 1) * step_x) * depth
    shared = _padded(tall * broad) == _padded(tall * narrow)
    line, rows = broad if shared else narrow, tall + (pool_y - 1) * step_y
    across = step_x * depth if shared else rows * line
    windows = [i * step_y * line + j * across for i in range(pool_y) for j in range(pool_x)]
    return Patch(line, rows, 1 if shared else pool_x, tuple(windows), _padded(tall * line))


def _padded(size: int) -> int:
    return -(-size // _LANES) * _LANES


def emit(name: str, title: str, network: tuple[Layer, ...], threshold: float) -> dict[str, str]:
    """Return the header and the C file, by their names.

    Args:
        name: prefix of every identifier.
        title: a line that names the model.
        network: the layers, from `lowering.read`.
        threshold: the least probability that is accepted, 0 to 1.
    """
    patch_size, activations = _scratch(network)
    functions, calls, place = [], [], "image"
    for number, layer in enumerate(network, 1):
        prefix = "pool" if layer.template.endswith("_pool") else layer.template
        function = f"{prefix}_{number}"
        functions.append(_function(layer, function, number == 1))
        if layer.template != "softmax":
            start = 0 if number % 2 else activations - math.prod(layer.target)
            target = f"scratch.values + {start}"
            calls.append(f"{function}({place}, {target});")
            place = target
    # The least output that is not below the threshold, exactly: 256 is a power of two.
    least = math.ceil(256 * threshold)
    values = {
        "name": name,
        "title": title,
        "scratch": 2 * patch_size + activations,
        "least": least,
        "threshold": least - 128,
        "patch": patch_size,
        "values": activations,
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
        name: name of the function, and prefix of its constants.
        first: whether the input is the pixels; the network takes each as the int8 `pixel - 128`.
    """
    height, width, depth = layer.source
    down, across, channels = layer.target
    values, arrays = layer.values, layer.arrays
    if isinstance(layer, Convolution):
        values = values | _unrolled(layer, name)
        arrays = {"weights": ("int8_t", _weights(layer))} | arrays
    text = fill(
        f"c/{layer.template}.c",
        **{
            "name": name,
            "type": "uint8_t" if first else "int8_t",
            "shapes": f"{height}x{width}x{depth} to {down}x{across}x{channels}",
            "height": height,
            "width": width,
            "depth": depth,
            "line": width * depth,
            "size": height * width * depth,
            "down": down,
            "across": across,
            "channels": channels,
            "arrays": "\n".join(
                _array(kind, f"{name}_{what}", numbers) for what, (kind, numbers) in arrays.items()
            ),
        }
        | values,
    )
    return re.sub(r"READ\((.+?\])\)", r"(\1 - 128)" if first else r"\1", text)


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


def _weights(layer: Convolution) -> NDArray[np.int8]:
    """Return the weights in the layout of the patch, with its zeros: (out, values)."""
    channels, tall, wide, depth = layer.weights.shape
    laid = patch(layer)
    rows = np.zeros((channels, tall, laid.line), np.int8)
    rows[:, :, : wide * depth] = layer.weights.reshape(channels, tall, -1)
    weights = np.zeros((channels, laid.weights), np.int8)
    weights[:, : tall * laid.line] = rows.reshape(channels, -1)
    return weights


def _unrolled(layer: Convolution, name: str) -> dict[str, object]:
    """Return the values of a convolution's template, with its unrolled statements.

    The inner loop adds up several sums side by side: of `block` output channels, `o`, at all
    windows, `p`, of the maximum that follows.
    """
    channels, tall, wide, _ = layer.weights.shape
    _, width, depth = layer.source
    laid, pool, values = patch(layer), layer.pool, layer.values
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
        factor = f"{name}_multiplier[o + {o}], {name}_shift[o + {o}]"
        limits = f"{values['low']}, {values['high']}"
        store += [
            f"sum{o}0 = {most} + {name}_bias[o + {o}];",
            f"sum{o}0 = {values['scale']}(sum{o}0, {factor});",
            f"output[o + {o}] = limit(sum{o}0 {values['offset']}, {limits});",
        ]
    return {
        "tall": tall,
        "wide": wide,
        "filter": laid.weights,
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
