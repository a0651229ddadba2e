"""Lower an int8 .tflite to a chain of layers whose constants are integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import ArrayLike, NDArray

from keras_lenet.deploy import arithmetic
from keras_lenet.edge.classifier import Classifier, open_interpreter
from keras_lenet.errors import Error
from keras_lenet.tflite.inspection import op_name

Shape = tuple[int, int, int]
"""Height, width, channels; a vector is (1, 1, n)."""
Arrays = dict[str, tuple[str, ArrayLike]]
"""Constant arrays by name: the C type, and the values."""

_ACTIVATIONS = schema.ActivationFunctionType
_BOUNDS: dict[int, tuple[float, float]] = {
    _ACTIVATIONS.NONE: (-math.inf, math.inf),
    _ACTIVATIONS.RELU: (0.0, math.inf),
    _ACTIVATIONS.RELU6: (0.0, 6.0),
}


@dataclass(frozen=True)
class Layer:
    """A layer, with the values that its C template takes.

    Attributes:
        template: the file in `templates/c/`, without its suffix.
        source: shape of the input.
        target: shape of the output.
        values: values of the template besides the shapes.
        arrays: its constants.
    """

    template: str
    source: Shape
    target: Shape
    values: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Convolution(Layer):
    """CONV_2D without padding, or FULLY_CONNECTED.

    Attributes:
        weights: int8, (out, height, width, in).
        stride: down and across.
        pool: height and width of a MAX_POOL_2D that follows. Rounding keeps the order of values,
            so the C finds the maximum of the sums first, and rounds it alone.
    """

    weights: NDArray[np.int8] = field(kw_only=True)
    stride: tuple[int, int] = field(kw_only=True)
    pool: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class _Tensor:
    """A tensor as the runtime has it; `values` is None unless it is a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: type
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int32]
    values: NDArray[Any] | None

    @property
    def extents(self) -> Shape:
        """The shape without the batch of 1."""
        if not self.shape or len(self.shape) > 4 or self.shape[0] != 1:
            raise Error(f"{self.name}: expected one image's activations, found shape {self.shape}")
        height, width, channels = (1, 1, 1, *self.shape[1:])[-3:]
        return height, width, channels

    @property
    def scale(self) -> float:
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0])


@dataclass(frozen=True)
class _Operator:
    name: str
    inputs: list[_Tensor]
    output: _Tensor
    options: Any

    @property
    def source(self) -> _Tensor:
        return self.inputs[0]

    def constant(self, position: int) -> NDArray[Any]:
        values = self.inputs[position].values
        if values is None:
            raise Error(f"{self.name}: input {position} is computed, expected a constant")
        return values

    @property
    def stride(self) -> tuple[int, int]:
        return self.options.strideH, self.options.strideW

    def limits(self) -> tuple[int, int]:
        """Return the lower and upper clamp of the output, from the fused activation."""
        activation = self.options.fusedActivationFunction
        if activation not in _BOUNDS:
            raise Error(f"{self.name}: no C is generated for its fused activation ({activation})")
        steps = np.array(_BOUNDS[activation], np.float32) / np.float32(self.output.scale)
        ends = [arithmetic.round_half_away(step) for step in np.clip(steps, -256, 256)]
        low, high = np.clip(np.array(ends) + self.output.zero_point, *arithmetic.INT8).tolist()
        return low, high


def read(path: Path) -> tuple[Layer, ...]:
    """Read the layers of an int8 digit classifier; the last is its only softmax.

    Raises:
        Error: the file can't be read or is damaged; isn't int8 from pixel - 128 to ten
            probabilities; or has an op, an option or a graph that isn't supported.
    """
    classifier = Classifier(path, kernels="reference")
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(f"{path}: expected an int8 file, found {classifier.input.dtype}")
    image = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))
    if (classifier.quantize(image).ravel() != image.ravel().astype(int) - 128).any():
        raise Error(f"{path}: expected the input pixel - 128, found another scale or zero point")
    try:
        operators = _operators(path)
        layers = [layer for each in operators for layer in _READERS[each.name](each)]
    except Error as error:
        raise Error(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Error(f"{path}: damaged .tflite file, or of a newer schema ({error})") from error
    templates = [layer.template for layer in layers]
    if templates.count("softmax") != 1 or templates[-1] != "softmax":
        raise Error(f"{path}: expected one SOFTMAX, at the end")
    return _fused(layers)


def _operators(path: Path) -> list[_Operator]:
    """Return the operators, each of which reads the output of the one before it."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    interpreter = open_interpreter(path, kernels="reference")
    details = {each["index"]: each for each in interpreter.get_tensor_details()}

    def tensor(index: int) -> _Tensor:
        found, data = details[index], model.buffers[graph.tensors[index].buffer].data
        quantization = found["quantization_parameters"]
        return _Tensor(
            found["name"],
            tuple(found["shape"].tolist()),
            found["dtype"],
            quantization["scales"],
            quantization["zero_points"],
            interpreter.get_tensor(index) if data is not None and len(data) else None,
        )

    operators = []
    flowing = int(graph.inputs[0])
    for operator in graph.operators:
        name = op_name(model.operatorCodes[operator.opcodeIndex])
        if name not in _READERS:
            known = ", ".join(sorted(_READERS))
            hint = "; take the file in the export's microcontroller/" if name == "TRANSPOSE" else ""
            raise Error(f"no C is generated for {name}; there is for {known}{hint}")
        inputs = [int(i) for i in operator.inputs if i >= 0]
        if inputs[0] != flowing or len(operator.outputs) != 1:
            raise Error(f"{name}: expected a chain of ops, found a branch")
        flowing = int(operator.outputs[0])
        found = _Operator(name, [*map(tensor, inputs)], tensor(flowing), operator.builtinOptions)
        for end in (found.source, found.output):
            if end.dtype is not np.int8:
                raise Error(f"{name}: {end.name} is {end.dtype.__name__}, not int8")
        operators.append(found)
    if flowing != graph.outputs[0]:
        raise Error("expected a chain of ops, found a branch")
    return operators


def _resize(operator: _Operator) -> list[Layer]:
    source, target, options = operator.source.extents, operator.output.extents, operator.options
    if options.alignCorners or not options.halfPixelCenters or min(source[:2]) < 2:
        raise Error(f"{operator.name}: expected half-pixel centres and an input of 2×2 or more")
    rows, row_weights = arithmetic.interpolation(source[0], target[0])
    columns, column_weights = arithmetic.interpolation(source[1], target[1])
    _, width, depth = source
    arrays: Arrays = {
        "row": ("int32_t", [width * depth * row for row in rows]),
        "row_weight": ("int16_t", row_weights),
        "column": ("int32_t", [depth * column for column in columns]),
        "column_weight": ("int16_t", column_weights),
    }
    return [Layer("resize", source, target, arrays=arrays)]


def _pad(operator: _Operator) -> list[Layer]:
    paddings = operator.constant(1).tolist()
    if len(paddings) != 4 or any(paddings[0]) or any(paddings[3]):
        raise Error(f"{operator.name}: expected rows and columns around an image, found {paddings}")
    (top, _), (left, _) = paddings[1:3]
    zero_point = operator.output.zero_point
    return [_padding(operator.source.extents, operator.output.extents, top, left, zero_point)]


def _padding(source: Shape, target: Shape, top: int, left: int, value: int) -> Layer:
    down, across, depth = target
    values = {
        "size": down * across * depth,
        "start": (top * across + left) * depth,
        "target_line": across * depth,
        "value": value,
    }
    return Layer("pad", source, target, values)


def _pool(operator: _Operator) -> list[Layer]:
    options, (low, high) = operator.options, operator.limits()
    if options.padding != schema.Padding.VALID:
        raise Error(f"{operator.name}: no C is generated for SAME padding")
    values = {
        "tall": options.filterHeight,
        "wide": options.filterWidth,
        "step_y": options.strideH,
        "step_x": options.strideW,
        "low": low,
        "high": high,
    }
    template = operator.name.removesuffix("_2D").lower()
    return [Layer(template, operator.source.extents, operator.output.extents, values)]


def _convolution(operator: _Operator) -> list[Layer]:
    source, options, weights = operator.source.extents, operator.options, operator.constant(1)
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        raise Error(f"{operator.name}: no C is generated for dilation")
    if weights.shape[3] != source[2]:
        raise Error(f"{operator.name}: no C is generated for groups of channels")
    layers = []
    if options.padding == schema.Padding.SAME:  # an odd row goes below, an odd column right
        totals = [
            max((operator.output.extents[i] - 1) * operator.stride[i] + side - source[i], 0)
            for i, side in enumerate(weights.shape[1:3])
        ]
        padded = (source[0] + totals[0], source[1] + totals[1], source[2])
        before = totals[0] // 2, totals[1] // 2
        layers.append(_padding(source, padded, *before, operator.source.zero_point))
        source = padded
    if operator.name == "CONV_2D":
        return [*layers, _weighted(operator, weights, source, operator.stride)]
    weights = weights.transpose(3, 1, 2, 0)
    layer = _weighted(operator, weights, source, operator.stride)
    values = {
        "tall": weights.shape[1],
        "wide": weights.shape[2],
        "filter": weights[0].size,
        "row_step": operator.stride[0] * source[1],
        "column_step": operator.stride[1],
    }
    arrays: Arrays = {"weights": ("int8_t", weights)}
    values |= layer.values
    return [*layers, Layer("depthwise", source, layer.target, values, arrays | layer.arrays)]


def _fully_connected(operator: _Operator) -> list[Layer]:
    flat = operator.constant(1)
    if operator.output.extents != (1, 1, len(flat)):
        raise Error(f"{operator.name}: expected one vector, found {operator.output.shape}")
    weights = flat.reshape(len(flat), 1, 1, -1)
    return [_weighted(operator, weights, (1, 1, weights.shape[3]), (1, 1))]


def _weighted(
    operator: _Operator, weights: NDArray[Any], source: Shape, stride: tuple[int, int]
) -> Convolution:
    """Return the layer of weights (out, height, width, in) and of an input of shape `source`.

    Raises:
        Error: the weights are not int8 with zero point 0, a sum can exceed 32 bits, or the output
            has a finer scale than the sums.
    """
    filters, output = operator.inputs[1], operator.output
    if filters.dtype is not np.int8 or filters.zero_points.any():
        raise Error(f"{operator.name}: expected int8 weights with zero point 0")
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    # The input's zero point is subtracted once, in the bias.
    bias = -operator.source.zero_point * rows.sum(axis=1)
    if len(operator.inputs) > 2:
        bias += operator.constant(2)
    largest = np.abs(bias) + 128 * np.abs(rows).sum(axis=1)
    if (largest >= 2**31).any():
        raise Error(f"{operator.name}: its sums can exceed 32 bits")
    scales = np.broadcast_to(filters.scales.astype(np.float64), len(weights))
    factors = (operator.source.scale * scales / output.scale).tolist()
    low, high = operator.limits()
    once = operator.name == "FULLY_CONNECTED"
    if once:
        ends = low - output.zero_point, high - output.zero_point
        pairs = [
            arithmetic.single_rounding(factor, *ends, size)
            for factor, size in zip(factors, largest.tolist(), strict=True)
        ]
    else:
        pairs = [arithmetic.quantize_multiplier(factor) for factor in factors]
    multipliers, shifts = np.array(pairs, np.int32).T
    if not once and shifts.max() > 0:
        raise Error(f"{operator.name}: the scale of its output is finer than that of its sums")
    values = {
        "scale": "scale_once" if once else "scale_twice",
        "offset": f"{'-' if output.zero_point < 0 else '+'} {abs(output.zero_point)}",
        "low": low,
        "high": high,
    }
    arrays: Arrays = {
        "bias": ("int32_t", bias),
        "multiplier": ("int32_t", multipliers),
        "shift": ("int8_t", -shifts),
    }
    return Convolution(
        "convolution", source, output.extents, values, arrays, weights=weights, stride=stride
    )


def _lookup(operator: _Operator) -> list[Layer]:
    function = {"QUANTIZE": arithmetic.requantization, "TANH": arithmetic.tanh}[operator.name]
    source, output = operator.source, operator.output
    table = function(source.scale, source.zero_point, output.scale, output.zero_point)
    return [Layer("lookup", source.extents, output.extents, arrays={"table": ("int8_t", table)})]


def _softmax(operator: _Operator) -> list[Layer]:
    source = operator.source.extents
    if source[:2] != (1, 1):
        raise Error(f"{operator.name}: expected one vector, found {operator.source.shape}")
    table = arithmetic.exponentials(operator.source.scale, operator.options.beta)
    arrays: Arrays = {"exponentials": ("int32_t", table)}
    return [Layer("softmax", source, source, {"count": len(table)}, arrays)]


_READERS: dict[str, Callable[[_Operator], list[Layer]]] = {
    "AVERAGE_POOL_2D": _pool,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _pool,
    "PAD": _pad,
    "QUANTIZE": _lookup,
    "RESHAPE": lambda operator: [],  # the same values in the same order
    "RESIZE_BILINEAR": _resize,
    "SOFTMAX": _softmax,
    "TANH": _lookup,
}


def _fused(layers: list[Layer]) -> tuple[Layer, ...]:
    """Let each convolution take the maximum over windows side by side that follows it."""
    fused: list[Layer] = []
    for layer in layers:
        before, values = fused[-1] if fused else None, layer.values
        if (
            layer.template == "max_pool"
            and isinstance(before, Convolution)
            and before.pool == (1, 1)
            and layer.source == before.target  # no RESHAPE between them
            and (values["tall"], values["wide"]) == (values["step_y"], values["step_x"])
            and values["tall"] * values["wide"] <= 4  # more sums than registers otherwise
        ):
            limits = [before.values["low"], before.values["high"]]
            low, high = np.clip(limits, values["low"], values["high"]).tolist()
            fused[-1] = replace(
                before,
                target=layer.target,
                pool=(values["tall"], values["wide"]),
                values=before.values | {"low": low, "high": high},
            )
        else:
            fused.append(layer)
    return tuple(fused)
