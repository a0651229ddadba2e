"""Lower an int8 .tflite to a chain of layers whose constants are integers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_lenet.deploy.c import arithmetic
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.tflite.inspection import op_name

Shape = tuple[int, int, int]
"""Height, width, channels; a vector is (1, 1, n)."""

_INTEGERS: dict[int, np.dtype[Any]] = {
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.INT32: np.dtype("<i4"),
    schema.TensorType.INT64: np.dtype("<i8"),
}
_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
_ACTIVATIONS = schema.ActivationFunctionType
_ACTIVATION_NAMES = {code: name for name, code in vars(_ACTIVATIONS).items() if name.isupper()}
_BOUNDS: dict[int, tuple[float, float]] = {
    _ACTIVATIONS.NONE: (-math.inf, math.inf),
    _ACTIVATIONS.RELU: (0.0, math.inf),
    _ACTIVATIONS.RELU_N1_TO_1: (-1.0, 1.0),
    _ACTIVATIONS.RELU6: (0.0, 6.0),
}


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
        shifts: int8, (out,).
        zero_point: of the output.
        limits: the least and greatest output.
        once: rounds once, not twice.
        stride: down and across.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    multipliers: NDArray[np.int32]
    shifts: NDArray[np.int8]
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


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
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
        values = self.inputs[position].values if position < len(self.inputs) else None
        if values is None:
            raise Error(f"{self.name}: input {position} is computed, expected a constant")
        return values


def read(path: Path) -> tuple[Layer, ...]:
    """Read the layers of an int8 digit classifier, from a uint8 image to ten int8 probabilities.

    Only the last is a softmax.

    Raises:
        Error: the file can't be read or is damaged; isn't int8 throughout, from pixel - 128 to
            ten probabilities; or has an op, an option or a graph that isn't supported.
    """
    classifier = Classifier(path, kernels="reference")  # the runtime's own verifier comes first
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(
            f"{path}: C is generated from an int8 file, this one is {classifier.input.dtype}"
        )
    image = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))
    if (classifier.quantize(image).ravel() != image.ravel().astype(int) - 128).any():
        raise Error(f"{path}: its input isn't pixel - 128, which the C interface takes")
    try:
        operators = _operators(path.read_bytes())
        layers = tuple(
            layer for operator in operators for layer in _READERS[operator.name](operator)
        )
    except Error as error:
        raise Error(f"{path}: {error}") from error
    except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise Error(f"{path}: damaged .tflite file, or of a newer schema ({error})") from error
    if [isinstance(layer, Softmax) for layer in layers] != [False] * (len(layers) - 1) + [True]:
        raise Error(f"{path}: expected one SOFTMAX, at the end")
    return _fused(layers)


def _operators(content: bytes) -> list[_Operator]:
    """Return the operators in order, each fed by the one before it alone."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    tensors = [_tensor(tensor, model) for tensor in graph.tensors]
    found = []
    flowing = int(graph.inputs[0])
    for operator in graph.operators or []:
        name = op_name(model.operatorCodes[operator.opcodeIndex])
        if name not in _READERS:
            known = ", ".join(sorted(_READERS))
            hint = "; of a run, take the file in microcontroller/" if name == "TRANSPOSE" else ""
            raise Error(f"no C is generated for {name}; there is for {known}{hint}")
        inputs = [int(i) for i in operator.inputs if i >= 0]
        if inputs[0] != flowing or len(operator.outputs) != 1:
            raise Error(f"{name}: expected a chain of ops, found a branch")
        flowing = int(operator.outputs[0])
        for index in (inputs[0], flowing):
            if tensors[index].dtype != "int8":
                raise Error(f"{name}: {tensors[index].name} is {tensors[index].dtype}, not int8")
        found.append(
            _Operator(name, [tensors[i] for i in inputs], tensors[flowing], operator.builtinOptions)
        )
    if flowing != graph.outputs[0]:
        raise Error("expected a chain of ops, found a branch")
    return found


def _tensor(tensor: Any, model: Any) -> _Tensor:
    data, dtype = model.buffers[tensor.buffer].data, _INTEGERS.get(tensor.type)
    shape = () if tensor.shape is None else tuple(int(side) for side in tensor.shape)
    values = None
    if data is not None and len(data) and dtype is not None:
        values = np.asarray(data, np.uint8).view(dtype).reshape(shape)
    quantization = tensor.quantization or schema.QuantizationParametersT()
    return _Tensor(
        tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else tensor.name,
        shape,
        _TYPES.get(tensor.type, f"type {tensor.type}"),
        np.array([] if quantization.scale is None else quantization.scale, np.float32),
        np.array([] if quantization.zeroPoint is None else quantization.zeroPoint, np.int64),
        values,
    )


def _limits(operator: _Operator) -> tuple[int, int]:
    """Return the least and greatest output that the activation in an op leaves."""
    activation, output = operator.options.fusedActivationFunction, operator.output
    if activation not in _BOUNDS:
        name = _ACTIVATION_NAMES.get(activation, activation)
        raise Error(f"{operator.name}: no C is generated for the activation {name} in it")
    steps = np.array(_BOUNDS[activation], np.float32) / np.float32(output.scale)
    ends = [arithmetic.round_half_away(step) for step in np.clip(steps, -256, 256)]
    low, high = np.clip(np.array(ends) + output.zero_point, *arithmetic.INT8).tolist()
    return low, high


def _stride(operator: _Operator) -> tuple[int, int]:
    return operator.options.strideH, operator.options.strideW


def _padding(operator: _Operator, window: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the rows above and below the input, and the columns left and right, that SAME adds."""
    if operator.options.padding == schema.Padding.VALID:
        return [(0, 0), (0, 0)]
    spread = []
    for axis, stride in enumerate(_stride(operator)):
        source, target = operator.source.extents[axis], operator.output.extents[axis]
        total = max((target - 1) * stride + window[axis] - source, 0)
        spread.append((total // 2, total - total // 2))
    return spread


def _resize(operator: _Operator) -> list[Layer]:
    source, target, options = operator.source.extents, operator.output.extents, operator.options
    if min(source[:2]) < 2:
        raise Error(f"{operator.name}: no C is generated for an input one pixel wide or high")
    rows, columns = (
        arithmetic.interpolation(
            source[axis], target[axis], options.halfPixelCenters, options.alignCorners
        )
        for axis in (0, 1)
    )
    return [Resize(source, target, rows, columns)]


def _pad(operator: _Operator) -> list[Layer]:
    paddings = operator.constant(1).tolist()
    if len(paddings) != 4 or any(paddings[0]) or any(paddings[3]):
        raise Error(f"{operator.name}: expected rows and columns around an image, found {paddings}")
    source, target = operator.source.extents, operator.output.extents
    return [Pad(source, target, paddings[1][0], paddings[2][0], operator.output.zero_point)]


def _pool(operator: _Operator) -> list[Layer]:
    window = operator.options.filterHeight, operator.options.filterWidth
    (top, _), (left, _) = _padding(operator, window)
    source, target = operator.source.extents, operator.output.extents
    average, limits = operator.name == "AVERAGE_POOL_2D", _limits(operator)
    return [Pool(source, target, average, window, _stride(operator), (top, left), limits)]


def _convolution(operator: _Operator) -> list[Layer]:
    source, options, weights = operator.source.extents, operator.options, operator.constant(1)
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        raise Error(f"{operator.name}: no C is generated for dilation")
    if weights.shape[3] != source[2]:
        raise Error(f"{operator.name}: no C is generated for groups of channels")
    (top, bottom), (left, right) = _padding(operator, weights.shape[1:3])
    layers: list[Layer] = []
    if top or bottom or left or right:
        padded = (source[0] + top + bottom, source[1] + left + right, source[2])
        layers.append(Pad(source, padded, top, left, operator.source.zero_point))
        source = padded
    if operator.name == "DEPTHWISE_CONV_2D":
        return [*layers, _sums(Depthwise, operator, weights.transpose(3, 1, 2, 0), source)]
    return [*layers, _sums(Convolution, operator, weights, source)]


def _fully_connected(operator: _Operator) -> list[Layer]:
    flat = operator.constant(1)
    if operator.options.weightsFormat:
        raise Error(f"{operator.name}: no C is generated for shuffled weights")
    if operator.output.extents != (1, 1, len(flat)):
        raise Error(f"{operator.name}: expected one vector, found {operator.output.shape}")
    weights = flat.reshape(len(flat), 1, 1, -1)
    return [_sums(Convolution, operator, weights, (1, 1, weights.shape[3]))]


def _sums(kind: type[Sums], operator: _Operator, weights: NDArray[np.int8], source: Shape) -> Sums:
    """Return the layer of weights, int8 (out, height, width, in), and an input of shape `source`.

    Raises:
        Error: the weights' quantization isn't supported, or a sum can exceed 32 bits.
    """
    filters, channels, output = operator.inputs[1], len(weights), operator.output
    if weights.dtype != np.int8 or filters.zero_points.any():
        raise Error(f"{operator.name}: expected int8 weights with zero point 0")
    if len(filters.scales) not in (1, channels):
        raise Error(f"{operator.name}: {len(filters.scales)} scales for {channels} output channels")
    rows = weights.reshape(channels, -1).astype(np.int64)
    bias = -operator.source.zero_point * rows.sum(axis=1)
    if len(operator.inputs) > 2:
        bias += operator.constant(2)
    largest = np.abs(bias) + 128 * np.abs(rows).sum(axis=1)
    low, high = _limits(operator)
    scales = np.broadcast_to(filters.scales.astype(np.float64), channels)
    factors = (operator.source.scale * scales / output.scale).tolist()
    once = operator.name == "FULLY_CONNECTED"
    if once:
        ends = low - output.zero_point, high - output.zero_point
        pairs = [
            arithmetic.single_rounding(factor, *ends, size)
            for factor, size in zip(factors, largest.tolist(), strict=True)
        ]
    else:
        pairs = [arithmetic.quantize_multiplier(factor) for factor in factors]
        # Where it rounds twice, the sum is shifted to the left first.
        largest = largest * 2.0 ** np.array([max(shift, 0) for _, shift in pairs])
    if (largest >= 2**31).any():
        raise Error(f"{operator.name}: its sums can exceed 32 bits")
    return kind(
        source,
        output.extents,
        weights,
        bias.astype(np.int32),
        np.array([multiplier for multiplier, _ in pairs], np.int32),
        np.array([shift for _, shift in pairs], np.int8),
        output.zero_point,
        (low, high),
        once,
        (1, 1) if once else _stride(operator),
    )


def _lookup(operator: _Operator) -> list[Layer]:
    function = {"QUANTIZE": arithmetic.requantization, "TANH": arithmetic.tanh}[operator.name]
    source, output = operator.source, operator.output
    table = function(source.scale, source.zero_point, output.scale, output.zero_point)
    return [Lookup(source.extents, output.extents, table)]


def _softmax(operator: _Operator) -> list[Layer]:
    source = operator.source.extents
    if source[:2] != (1, 1):
        raise Error(f"{operator.name}: expected one vector, found {operator.source.shape}")
    exponentials = arithmetic.exponentials(operator.source.scale, operator.options.beta)
    return [Softmax(source, source, exponentials)]


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


def _fused(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Let each convolution take the maximum over windows side by side that follows it."""
    fused: list[Layer] = []
    for layer in layers:
        before = fused[-1] if fused else None
        if (
            isinstance(layer, Pool)
            and isinstance(before, Convolution)
            and before.pool == (1, 1)
            and layer.source == before.target  # no RESHAPE between them
            and not layer.average
            and layer.window == layer.stride
            and math.prod(layer.window) <= 4  # more sums than registers otherwise
            and all(layer.target[i] * layer.window[i] <= layer.source[i] for i in (0, 1))
        ):
            low, high = np.clip(before.limits, *layer.limits).tolist()
            fused[-1] = replace(before, target=layer.target, pool=layer.window, limits=(low, high))
        else:
            fused.append(layer)
    return tuple(fused)
