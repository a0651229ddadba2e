"""Changes of a converted .tflite that keep its outputs: a free batch size, an XNNPACK layout."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_lenet.tflite import inspection, metadata_writer

ROWS, COLUMNS = 2, 4
"""Height and width of the block of pixels that becomes the channels of one pixel."""
PLACES = ROWS * COLUMNS
WINDOW = 4
"""Pixels of a 2×2 pooling; a block has two such windows."""
_SWAP = (3, 1, 2, 0)
"""The permutation that swaps images and channels."""


def any_batch(content: bytes) -> bytes:
    """Let the RESHAPE ops of a .tflite take any number of images.

    An interpreter can resize the input, but not a shape that is a constant in the file.
    """
    graph = _Graph(content)
    reshapes = [operator for operator in graph.operators if graph.name(operator) == "RESHAPE"]
    for operator in reshapes:
        shape = graph.values(operator.inputs[1])
        graph.set_values(operator.inputs[1], np.array([-1, *shape[1:]], np.int32))
    return graph.pack() if reshapes else content


def optimize(content: bytes) -> bytes:
    """Optimize the layout of an int8 or uint8 .tflite for kernels that compute several channels.

    XNNPACK pads a tensor of one channel, so the first layers take most of a LeNet's time. The
    optimized layout makes channels of

    - images: RESIZE_BILINEAR takes (1, 28, 28, N) instead of (N, 28, 28, 1), between two TRANSPOSE;
    - pixels (space to depth), where the first CONV_2D, of F filters, and its MAX_POOL_2D of 2×2
      suit. Blocks of 2×4 pixels become channels: (N, 32, 32, 1) becomes (N, 16, 8, 8). A filter of
      5×5 becomes eight of 3×2×8, one for each place in a block that it can begin at, with 0 in the
      other taps. The pooling takes the greatest of four neighbours among their outputs,
      (N, 14, 7, 8·F), and leaves (N, 14, 14, F).

    A tap of 0 adds nothing, whatever the zero point of the input, and weights, scales and biases
    are repeated, so every sum is rounded as before. The convolution multiplies twice as often:
    processors that compute one product at a time, such as microcontrollers, need the plain layout.

    Returns:
        The new .tflite without appended files, or the same bytes if nothing suits: another channel
        count, padding, stride or pooling, or a float file.
    """
    graph = _Graph(content)
    done = [_resize_as_channels(graph), _space_to_depth(graph)]
    return graph.pack() if any(done) else content


class _Graph:
    """The main graph of a .tflite, for changes."""

    def __init__(self, content: bytes) -> None:
        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.tensors: list[Any] = self._model.subgraphs[0].tensors
        self.operators: list[Any] = self._model.subgraphs[0].operators

    def pack(self) -> bytes:
        return metadata_writer.pack(self._model)

    def name(self, operator: Any) -> str:
        return inspection.op_name(self._model.operatorCodes[operator.opcodeIndex])

    def find(self, name: str) -> int | None:
        """Return the position of the first op of a name."""
        names = [self.name(operator) for operator in self.operators]
        return names.index(name) if name in names else None

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(side) for side in self.tensors[tensor].shape)

    def is_int8(self, tensor: int) -> bool:
        return bool(self.tensors[tensor].type == schema.TensorType.INT8)

    def values(self, tensor: int) -> NDArray[Any]:
        """Return a constant of int8 or int32."""
        data = self._model.buffers[self.tensors[tensor].buffer].data
        dtype = np.int8 if self.is_int8(tensor) else np.dtype("<i4")
        return np.asarray(data, np.uint8).view(dtype).reshape(self.shape(tensor))

    def set_values(self, tensor: int, values: NDArray[Any]) -> None:
        buffer = self._model.buffers[self.tensors[tensor].buffer]
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.tensors[tensor].shape = np.array(values.shape, np.int32)

    def tensor_like(self, tensor: int, shape: Sequence[int]) -> int:
        """Add a tensor of another shape, with the same type and quantization."""
        return self._add(copy.copy(self.tensors[tensor]), shape)

    def rearrange(
        self, kind: str, source: int, how: Sequence[int], target: int | None = None
    ) -> Any:
        """Make a RESHAPE to the shape `how`, or a TRANSPOSE by the permutation `how`.

        The output is a new tensor if `target` is None. The first side of a shape takes any number.
        """
        operator, argument = schema.OperatorT(), schema.TensorT()
        if kind == "RESHAPE":
            shape, values = tuple(how), np.array([-1, *how[1:]], np.int32)
            operator.builtinOptions = schema.ReshapeOptionsT()
            operator.builtinOptions.newShape = values
        else:
            shape, values = tuple(self.shape(source)[i] for i in how), np.array(how, np.int32)
            operator.builtinOptions = schema.TransposeOptionsT()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind.title()}Options")
        if target is None:
            target = self.tensor_like(source, shape)
        argument.type = schema.TensorType.INT32
        constant = self._add(argument, values.shape)
        self.set_values(constant, values)
        operator.opcodeIndex = self._code(kind)
        operator.inputs, operator.outputs = _indices(source, constant), _indices(target)
        return operator

    def _add(self, tensor: Any, shape: Sequence[int]) -> int:
        tensor.shape, tensor.name = np.array(shape, np.int32), f"layout/{len(self.tensors)}"
        tensor.buffer = len(self._model.buffers)
        self._model.buffers.append(schema.BufferT())
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _code(self, name: str) -> int:
        names = [inspection.op_name(code) for code in self._model.operatorCodes]
        if name in names:
            return names.index(name)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = {"RESHAPE": 1, "TRANSPOSE": 2}[name]  # the first ones for int8
        self._model.operatorCodes.append(code)
        return len(names)


def _indices(*tensors: int) -> NDArray[np.int32]:
    return np.array(tensors, np.int32)


def _resize_as_channels(graph: _Graph) -> bool:
    """Resize images as the channels of one image; return whether there is such a resize."""
    position = graph.find("RESIZE_BILINEAR")
    if position is None:
        return False
    resize = graph.operators[position]
    (source, size), target = map(int, resize.inputs), int(resize.outputs[0])
    if not graph.is_int8(source) or graph.shape(source)[3] != 1:
        return False
    before = graph.rearrange("TRANSPOSE", source, _SWAP)
    resized = graph.tensor_like(target, graph.shape(target))
    after = graph.rearrange("TRANSPOSE", resized, _SWAP, target)
    resize.inputs, resize.outputs = _indices(before.outputs[0], size), _indices(resized)
    graph.operators[position : position + 1] = [before, resize, after]
    return True


def _space_to_depth(graph: _Graph) -> bool:
    """Make blocks of pixels the channels of the first convolution; return whether it suits."""
    position = graph.find("CONV_2D")
    if position is None or not _suits(graph, graph.operators[position]):
        return False
    convolution, pooling = graph.operators[position : position + 2]
    (image, weights, bias), convolved = map(int, convolution.inputs), int(convolution.outputs[0])
    target = int(pooling.outputs[0])
    _, height, width, _ = graph.shape(image)
    _, pooled_height, pooled_width, filters = graph.shape(target)
    _repeat_filters(graph, weights, bias)

    rows, columns = height // ROWS, width // COLUMNS
    split = graph.rearrange("RESHAPE", image, (rows, ROWS, columns, COLUMNS))
    gathered = graph.rearrange("TRANSPOSE", split.outputs[0], (0, 2, 1, 3))
    depth = graph.rearrange("RESHAPE", gathered.outputs[0], (1, rows, columns, PLACES))
    convolution.inputs = _indices(depth.outputs[0], weights, bias)

    windows = PLACES // WINDOW  # of one block, side by side
    blocks = (pooled_height, pooled_width // windows)
    graph.tensors[convolved].shape = np.array((1, *blocks, PLACES * filters), np.int32)
    spread = (1, math.prod(blocks), WINDOW, windows * filters)
    side_by_side = graph.rearrange("RESHAPE", convolved, spread)
    greatest = graph.tensor_like(target, (1, math.prod(blocks), 1, windows * filters))
    pooling.inputs, pooling.outputs = side_by_side.outputs, _indices(greatest)
    options = pooling.builtinOptions
    options.filterHeight = options.strideH = 1
    options.filterWidth = options.strideW = WINDOW
    together = graph.rearrange("RESHAPE", greatest, graph.shape(target), target)

    graph.operators[position : position + 2] = [
        split, gathered, depth, convolution, side_by_side, pooling, together,
    ]  # fmt: skip
    return True


def _suits(graph: _Graph, convolution: Any) -> bool:
    """Return whether `optimize` can change this convolution, with a size that blocks divide."""
    options, operators = convolution.builtinOptions, graph.operators
    image = int(convolution.inputs[0])
    readers = [operator for operator in operators if convolution.outputs[0] in operator.inputs]
    following = operators[operators.index(convolution) + 1 :][:1]
    if not readers or readers != following or graph.name(following[0]) != "MAX_POOL_2D":
        return False
    pooling = following[0].builtinOptions
    steps = [options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor]
    window = [pooling.filterHeight, pooling.filterWidth, pooling.strideH, pooling.strideW]
    _, height, width, channels = graph.shape(image)
    _, target_height, target_width, _ = graph.shape(int(convolution.outputs[0]))
    return (
        graph.is_int8(image)
        and (channels, steps, window) == (1, [1, 1, 1, 1], [2, 2, 2, 2])
        and options.padding == pooling.padding == schema.Padding.VALID
        and not (height % ROWS or width % COLUMNS or target_height % ROWS or target_width % COLUMNS)
    )


def _repeat_filters(graph: _Graph, weights: int, bias: int) -> None:
    """Repeat each filter for every place in a block that it can begin at.

    Weights become (8·F, blocks down, blocks across, 8). The first axis is ordered by the place in
    the pooling's window, then the window, then the filter.
    """
    filters = graph.values(weights)[..., 0]
    count, down, across = filters.shape
    shape = (ROWS, 2, COLUMNS // 2, count, down + ROWS - 1, across + COLUMNS - 1)
    begun = np.zeros(shape, np.int8)
    for row in range(ROWS):
        for column in range(COLUMNS):
            place = begun[row, column % 2, column // 2]
            place[:, row : row + down, column : column + across] = filters
    blocks = begun.reshape(PLACES * count, shape[-2] // ROWS, ROWS, shape[-1] // COLUMNS, COLUMNS)
    blocks = blocks.transpose(0, 1, 3, 2, 4)
    graph.set_values(weights, blocks.reshape(*blocks.shape[:3], PLACES))
    graph.set_values(bias, np.tile(graph.values(bias), PLACES))
    for constant in (weights, bias):
        quantization = graph.tensors[constant].quantization
        if len(quantization.scale) > 1:
            quantization.scale = np.tile(quantization.scale, PLACES)
            quantization.zeroPoint = np.tile(quantization.zeroPoint, PLACES)
