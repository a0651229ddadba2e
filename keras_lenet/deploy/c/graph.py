"""The chain of layers that an int8 .tflite computes, with every constant an integer."""

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
_BOUNDS: dict[int, tuple[float | None, float | None]] = {
    _ACTIVATIONS.NONE: (None, None),
    _ACTIVATIONS.RELU: (0.0, None),
    _ACTIVATIONS.RELU_N1_TO_1: (-1.0, 1.0),
    _ACTIVATIONS.RELU6: (0.0, 6.0),
}


@dataclass(frozen=True)
class Layer:
    """What every layer has: the shapes that go in and come out."""

    source: Shape
    target: Shape


@dataclass(frozen=True)
class Resize(Layer):
    """RESIZE_BILINEAR. Of each row and column: the lower neighbour, the upper one's weight."""

    rows: tuple[list[int], list[int]]
    columns: tuple[list[int], list[int]]


@dataclass(frozen=True)
class Pad(Layer):
    """PAD, with `value` around: so many rows above, so many columns to the left."""

    top: int
    left: int
    value: int


@dataclass(frozen=True)
class Pool(Layer):
    """MAX_POOL_2D or AVERAGE_POOL_2D; what lies outside the input takes no part.

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
    """What sums weighted inputs.

    Attributes:
        weights: int8, (out, height, width, in).
        bias: int32, (out,): less what the input's zero point adds up to over the weights.
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
    """CONV_2D without padding, or FULLY_CONNECTED; the maximum of `pool` positions each.

    Attributes:
        pool: height and width of the MAX_POOL_2D that follows: rounding never changes an order,
            so the maximum of the sums is found first, and it alone is rounded.
    """

    pool: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Depthwise(Sums):
    """DEPTHWISE_CONV_2D without padding: of each channel by itself, so that `in` is 1."""


@dataclass(frozen=True)
class Lookup(Layer):
    """QUANTIZE or TANH: an output for each int8 value, -128 to 127."""

    table: NDArray[np.int8]


@dataclass(frozen=True)
class Softmax(Layer):
    """SOFTMAX. The exponentials by distance from the greatest input, in Q0.31."""

    exponentials: NDArray[np.int32]


@dataclass(frozen=True)
class Network:
    """The layers from one uint8 image to ten int8 probabilities; the last alone is a softmax.

    Attributes:
        layers: each takes what the one before it gives.
    """

    layers: tuple[Layer, ...]


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
        """Without the batch of 1, as height, width, channels."""
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


def read(path: Path) -> Network:
    """Read an int8 digit classifier.

    Raises:
        Error: the file can't be read or is damaged; isn't int8 throughout, from pixel - 128 to
            ten probabilities; or has an op, an option or a graph that isn't supported.
    """
    classifier = Classifier(path, kernels="reference")  # the runtime's own verifier comes first
    if classifier.input.dtype != np.int8 or classifier.output.dtype != np.int8:
        raise Error(
            f"{path}: C is generated from an int8 file, this one is {classifier.input.dtype}"
        )
    pixels = np.arange(256, dtype=np.uint8)
    image = np.resize(pixels, (1, 28, 28))
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
    return Network(_fused(layers))


def _operators(content: bytes) -> list[_Operator]:
    """The operators in order, each fed by the one before it alone."""
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
    quantization = tensor.quantization
    scales = () if quantization is None or quantization.scale is None else quantization.scale
    zeros = () if quantization is None or quantization.zeroPoint is None else quantization.zeroPoint
    name = tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else tensor.name
    dtype_name = _TYPES.get(tensor.type, f"type {tensor.type}")
    return _Tensor(
        name, shape, dtype_name, np.array(scales, np.float32), np.array(zeros, np.int64), values
    )


def _limits(operator: _Operator) -> tuple[int, int]:
    """The least and greatest output that the activation in an op leaves."""
    activation = operator.options.fusedActivationFunction
    if activation not in _BOUNDS:
        name = _ACTIVATION_NAMES.get(activation, activation)
        raise Error(f"{operator.name}: no C is generated for the activation {name} in it")
    output = operator.output
    ends = []
    for bound, limit in zip(_BOUNDS[activation], arithmetic.INT8, strict=True):
        if bound is not None:
            steps = np.float32(bound) / np.float32(output.scale)
            limit = output.zero_point + arithmetic.round_half_away(steps)
        ends.append(min(max(limit, arithmetic.INT8[0]), arithmetic.INT8[1]))
    return ends[0], ends[1]


def _padding(size: int, target: int, window: int, stride: int, padding: int) -> tuple[int, int]:
    """How many rows or columns lie before and after the input, as SAME spreads them."""
    if padding == schema.Padding.VALID:
        return 0, 0
    total = max((target - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


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
    source, target, options = operator.source.extents, operator.output.extents, operator.options
    window, stride = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    before = [
        _padding(source[axis], target[axis], window[axis], stride[axis], options.padding)[0]
        for axis in (0, 1)
    ]
    average = operator.name == "AVERAGE_POOL_2D"
    limits = _limits(operator)
    return [Pool(source, target, average, window, stride, (before[0], before[1]), limits)]


def _convolution(operator: _Operator) -> list[Layer]:
    source, target, options = operator.source.extents, operator.output.extents, operator.options
    weights = operator.constant(1)
    stride = (options.strideH, options.strideW)
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        raise Error(f"{operator.name}: no C is generated for dilation")
    if weights.shape[3] != source[2]:
        raise Error(f"{operator.name}: no C is generated for groups of channels")
    spread = [
        _padding(source[axis], target[axis], weights.shape[1 + axis], stride[axis], options.padding)
        for axis in (0, 1)
    ]
    layers: list[Layer] = []
    if np.any(spread):
        padded = (source[0] + sum(spread[0]), source[1] + sum(spread[1]), source[2])
        layers.append(Pad(source, padded, spread[0][0], spread[1][0], operator.source.zero_point))
        source = padded
    if operator.name == "DEPTHWISE_CONV_2D":
        by_channel = weights.transpose(3, 1, 2, 0)
        return [*layers, _sums(Depthwise, operator, by_channel, source, stride, once=False)]
    return [*layers, _sums(Convolution, operator, weights, source, stride, once=False)]


def _fully_connected(operator: _Operator) -> list[Layer]:
    flat = operator.constant(1)
    if getattr(operator.options, "weightsFormat", 0):
        raise Error(f"{operator.name}: no C is generated for shuffled weights")
    if operator.output.extents != (1, 1, len(flat)):
        raise Error(f"{operator.name}: expected one vector, found {operator.output.shape}")
    weights = flat.reshape(len(flat), 1, 1, -1)
    return [_sums(Convolution, operator, weights, (1, 1, weights.shape[3]), (1, 1), once=True)]


def _sums(
    kind: type[Sums],
    operator: _Operator,
    weights: NDArray[np.int8],
    source: Shape,
    stride: tuple[int, int],
    once: bool,
) -> Sums:
    filters = operator.inputs[1]
    if weights.dtype != np.int8 or filters.zero_points.any():
        raise Error(f"{operator.name}: expected int8 weights with zero point 0")
    channels, output = len(weights), operator.output
    if len(filters.scales) not in (1, channels):
        raise Error(f"{operator.name}: {len(filters.scales)} scales for {channels} output channels")
    rows = weights.reshape(channels, -1).astype(np.int64)
    bias = np.zeros(channels, np.int64) - operator.source.zero_point * rows.sum(axis=1)
    if len(operator.inputs) > 2:
        bias += operator.constant(2)
    largest = np.abs(bias) + 128 * np.abs(rows).sum(axis=1)
    limits = _limits(operator)
    scales = np.broadcast_to(filters.scales.astype(np.float64), channels)
    factors = operator.source.scale * scales / output.scale
    if once:
        ends = (limits[0] - output.zero_point, limits[1] - output.zero_point)
        pairs = [
            arithmetic.once(float(factor), *ends, int(size))
            for factor, size in zip(factors, largest, strict=True)
        ]
    else:
        pairs = [arithmetic.quantize_multiplier(float(factor)) for factor in factors]
    shifts = np.array([shift for _, shift in pairs], np.int8)
    # Where it rounds twice, the sum is shifted to the left first.
    if (largest * 2.0 ** (0 if once else np.maximum(shifts, 0)) >= 2**31).any():
        raise Error(f"{operator.name}: its sums can exceed 32 bits")
    return kind(
        source,
        output.extents,
        weights,
        bias.astype(np.int32),
        np.array([multiplier for multiplier, _ in pairs], np.int32),
        shifts,
        output.zero_point,
        limits,
        once,
        stride,
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
    """The same layers, each maximum over windows side by side taken by the convolution before."""
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
            low, high = (min(max(end, layer.limits[0]), layer.limits[1]) for end in before.limits)
            fused[-1] = replace(before, target=layer.target, pool=layer.window, limits=(low, high))
        else:
            fused.append(layer)
    return tuple(fused)
