"""Inspection of any .tflite file: tensors, ops, parameters, arithmetic and memory."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier, open_interpreter
from keras_lenet.errors import Error

_OPS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor; `scale` and `zero_point` are None unless it is quantized per tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    constant: bool

    def __str__(self) -> str:
        quantization = ""
        if self.scale is not None:
            quantization = f", scale {self.scale:.6g}, zero point {self.zero_point}"
        return f"{self.name}: {self.dtype} {self.dimensions}{quantization}"

    @property
    def dimensions(self) -> str:
        """Return the shape, as in 1×28×28×1."""
        return "×".join(map(str, self.shape)) or "scalar"

    @property
    def elements(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Return the size in memory; 0 for types of no fixed size."""
        bits = re.search(r"\d+$", self.dtype.replace("bool", "bool8"))
        return math.ceil(self.elements * int(bits[0]) / 8) if bits else 0


@dataclass(frozen=True)
class Op:
    """One operator, by its name in the TFLite schema.

    `inputs` leave out the constants, `macs` are the multiply-accumulates of one inference,
    `parameters` the number of weights and biases.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    macs: int
    parameters: int


@dataclass(frozen=True)
class Report:
    """The content of a file's main graph.

    Attributes:
        bytes: size of the file.
        ops: in the order of execution.
        weight_bytes: size of all constants.
        peak_activation_bytes: greatest size of the tensors alive at one time, if each is freed
            after its last use; an arena needs some more.
        metadata: the description inside the file, or None.
        contract_problem: the difference from a digit classifier as exported here, or None.
    """

    bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ops: tuple[Op, ...]
    weight_bytes: int
    peak_activation_bytes: int
    metadata: dict[str, Any] | None
    contract_problem: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self) | {"macs": self.macs, "parameters": self.parameters}

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one inference."""
        return sum(op.macs for op in self.ops)

    @property
    def parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum(op.parameters for op in self.ops)


def inspect(path: Path) -> Report:
    """Read a .tflite file.

    Raises:
        Error: the file cannot be read, is no .tflite, or is damaged.
    """
    open_interpreter(path, kernels="builtin")  # LiteRT verifies the file
    try:
        return _report(path)
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise Error(f"{path}: damaged .tflite file, or of a newer schema ({error})") from error


def op_name(code: Any) -> str:
    """Return the name of one of a file's operator codes; CUSTOM if it is no built-in."""
    # Old files have the code in a byte of its own, new ones where it overflows that byte.
    return _OPS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def _report(path: Path) -> Report:
    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    tensors = [_tensor(tensor, model) for tensor in graph.tensors]
    ops = [_op(operator, model, tensors) for operator in graph.operators or []]
    try:
        Classifier(path)
        contract_problem = None
    except Error as error:
        contract_problem = str(error)
    return Report(
        bytes=len(content),
        inputs=tuple(tensors[i] for i in graph.inputs),
        outputs=tuple(tensors[i] for i in graph.outputs),
        ops=tuple(ops),
        weight_bytes=sum(tensor.bytes for tensor in tensors if tensor.constant),
        peak_activation_bytes=_peak(graph, tensors),
        metadata=metadata.read(content),
        contract_problem=contract_problem,
    )


def _indices(positions: Any) -> list[int]:
    """Return positions of tensors, without absent ones (-1); a list left out of a file is None."""
    return [int(i) for i in positions if i >= 0] if positions is not None else []


def _tensor(tensor: Any, model: Any) -> TensorInfo:
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else quantization.scale
    single = len(scales) == 1
    data = model.buffers[tensor.buffer].data
    return TensorInfo(
        name=(tensor.name or b"").decode(errors="replace"),
        shape=() if tensor.shape is None else tuple(int(side) for side in tensor.shape),
        dtype=_TYPES.get(tensor.type, "unknown"),
        scale=float(scales[0]) if single else None,
        zero_point=int(quantization.zeroPoint[0]) if single else None,
        constant=data is not None and len(data) > 0,
    )


def _op(operator: Any, model: Any, tensors: list[TensorInfo]) -> Op:
    name = op_name(model.operatorCodes[operator.opcodeIndex])
    inputs = [tensors[i] for i in _indices(operator.inputs)]
    outputs = tuple(tensors[i] for i in _indices(operator.outputs))
    weights = [tensor for tensor in inputs if tensor.constant and name in _WEIGHTED]
    return Op(
        name=name,
        inputs=tuple(tensor for tensor in inputs if not tensor.constant),
        outputs=outputs,
        macs=_macs(name, inputs, outputs),
        parameters=sum(tensor.elements for tensor in weights),
    )


def _macs(name: str, inputs: list[TensorInfo], outputs: tuple[TensorInfo, ...]) -> int:
    """Return the multiply-accumulates; weights lie as in the TFLite operators' documentation."""
    if name not in _WEIGHTED or len(inputs) < 2:
        return 0
    weights = inputs[1].shape
    if name == "CONV_2D":  # (out, height, width, in)
        return outputs[0].elements * math.prod(weights[1:])
    if name == "DEPTHWISE_CONV_2D":  # (1, height, width, out)
        return outputs[0].elements * math.prod(weights[1:3])
    return outputs[0].elements * weights[-1]  # FULLY_CONNECTED: (out, in)


def _peak(graph: Any, tensors: list[TensorInfo]) -> int:
    """Return the greatest size, in bytes, of the tensors alive at one time."""
    operators = graph.operators or []
    last_use = dict.fromkeys(_indices(graph.outputs), len(operators))
    for step, operator in reversed(list(enumerate(operators))):
        for i in _indices(operator.inputs):
            last_use.setdefault(i, step)
    alive = set(_indices(graph.inputs))
    peak = 0
    for step, operator in enumerate(operators):
        alive |= set(_indices(operator.outputs))
        peak = max(peak, sum(tensors[i].bytes for i in alive if not tensors[i].constant))
        alive = {i for i in alive if last_use.get(i, -1) > step}
    return peak
