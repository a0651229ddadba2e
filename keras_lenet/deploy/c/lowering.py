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

from keras_lenet.deploy.c import (
    Convolution,
    Depthwise,
    Layer,
    Lookup,
    Pad,
    Pool,
    Resize,
    Shape,
    Softmax,
    Sums,
    arithmetic,
)  # fmt: skip
from keras_lenet.edge.classifier import Classifier, open_interpreter
from keras_lenet.errors import Error
from keras_lenet.tflite.inspection import op_name

_CONSTANTS = {"int8": "<i1", "int32": "<i4", "int64": "<i8"}
"""NumPy types of the constants that are read."""

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
        values = self.inputs[position].values
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
        found = classifier.input.dtype
        raise Error(f"{path}: C is generated from an int8 file, this one is {found}")
    image = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))
    if (classifier.quantize(image).ravel() != image.ravel().astype(int) - 128).any():
        raise Error(f"{path}: its input isn't pixel - 128, which the C interface takes")
    try:
        operators = _operators(path.read_bytes(), _shapes(path))
        layers = [layer for each in operators for layer in _READERS[each.name](each)]
    except Error as error:
        raise Error(f"{path}: {error}") from error
    except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise Error(f"{path}: damaged .tflite file, or of a newer schema ({error})") from error
    if [isinstance(layer, Softmax) for layer in layers] != [False] * (len(layers) - 1) + [True]:
        raise Error(f"{path}: expected one SOFTMAX, at the end")
    return _fused(layers)


def _shapes(path: Path) -> dict[int, tuple[int, ...]]:
    """Return the shape of every tensor as the runtime computes it, by index."""
    tensors = open_interpreter(path, kernels="reference").get_tensor_details()
    return {tensor["index"]: tuple(tensor["shape"].tolist()) for tensor in tensors}


def _operators(content: bytes, shapes: dict[int, tuple[int, ...]]) -> list[_Operator]:
    """Return the operators in order, each fed by the one before it alone.

    The runtime ignores the shapes that a file declares between ops; the buffers of the C would have
    them. So they must be those that the runtime computes.
    """
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
            if tensors[index].shape != shapes[index]:
                raise Error(
                    f"{name}: {tensors[index].name} has the shape {tensors[index].shape} in the "
                    f"file, and {shapes[index]} when it runs"
                )
        found.append(
            _Operator(name, [tensors[i] for i in inputs], tensors[flowing], operator.builtinOptions)
        )
    if flowing != graph.outputs[0]:
        raise Error("expected a chain of ops, found a branch")
    return found


def _tensor(tensor: Any, model: Any) -> _Tensor:
    data, dtype = model.buffers[tensor.buffer].data, _TYPES.get(tensor.type, f"type {tensor.type}")
    shape = () if tensor.shape is None else tuple(int(side) for side in tensor.shape)
    values = None
    if data is not None and len(data) and dtype in _CONSTANTS:
        values = data.view(_CONSTANTS[dtype]).reshape(shape)
    quantization = tensor.quantization or schema.QuantizationParametersT()
    return _Tensor(
        tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else tensor.name,
        shape,
        dtype,
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
    flags = options.halfPixelCenters, options.alignCorners
    rows = arithmetic.interpolation(source[0], target[0], *flags)
    columns = arithmetic.interpolation(source[1], target[1], *flags)
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
    if operator.output.extents != (1, 1, len(flat)):
        raise Error(f"{operator.name}: expected one vector, found {operator.output.shape}")
    weights = flat.reshape(len(flat), 1, 1, -1)
    return [_sums(Convolution, operator, weights, (1, 1, weights.shape[3]))]


def _sums(kind: type[Sums], operator: _Operator, weights: NDArray[np.int8], source: Shape) -> Sums:
    """Return the layer of weights, int8 (out, height, width, in), and an input of shape `source`.

    Raises:
        Error: the weights have a zero point, or a sum can exceed 32 bits.
    """
    filters, output, once = operator.inputs[1], operator.output, operator.name == "FULLY_CONNECTED"
    if filters.zero_points.any():
        raise Error(f"{operator.name}: expected int8 weights with zero point 0")
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    bias = -operator.source.zero_point * rows.sum(axis=1)
    if len(operator.inputs) > 2:
        bias += operator.constant(2)
    largest = np.abs(bias) + 128 * np.abs(rows).sum(axis=1)
    scales = np.broadcast_to(filters.scales.astype(np.float64), len(weights))
    factors = (operator.source.scale * scales / output.scale).tolist()
    low, high = _limits(operator)
    if once:
        ends = low - output.zero_point, high - output.zero_point
        pairs = [
            arithmetic.single_rounding(factor, *ends, size)
            for factor, size in zip(factors, largest.tolist(), strict=True)
        ]
    else:
        pairs = [arithmetic.quantize_multiplier(factor) for factor in factors]
    multipliers, shifts = np.array(pairs, np.int32).T
    # Where it rounds twice, the sum is shifted to the left first.
    if (largest * 2.0 ** (0 if once else np.maximum(shifts, 0)) >= 2**31).any():
        raise Error(f"{operator.name}: its sums can exceed 32 bits")
    return kind(
        source=source,
        target=output.extents,
        weights=weights,
        bias=bias.astype(np.int32),
        multipliers=multipliers,
        shifts=shifts,
        zero_point=output.zero_point,
        limits=(low, high),
        once=once,
        stride=(1, 1) if once else _stride(operator),
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


def _fused(layers: list[Layer]) -> tuple[Layer, ...]:
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
