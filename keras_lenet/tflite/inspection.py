"""What is in a .tflite file: tensors, ops, parameters, arithmetic and memory; for any model."""

from __future__ import annotations

import math
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
_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "int4": 0.5,
}  # fmt: skip
_DAMAGE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, struct.error)
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor; `scale` and `zero_point` are None where it isn't quantized per tensor."""

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
        """The shape, as in 1×28×28×1."""
        return "×".join(map(str, self.shape)) or "scalar"

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in memory; 0 for types of no fixed size."""
        return math.ceil(self.elements * _BYTES.get(self.dtype, 0))


@dataclass(frozen=True)
class Op:
    """One operator: its inputs without the constants, its multiply-accumulates and weights.

    Attributes:
        name: as the TFLite schema has it.
        inputs: without the constants.
        outputs: what it computes.
        macs: multiply-accumulates of one inference.
        parameters: weights and biases.
        weight_bytes: what these take in the file.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    macs: int
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class Report:
    """What `inspect` found.

    Attributes:
        bytes: size of the file.
        inputs: of the main graph.
        outputs: of the main graph.
        ops: in the order of execution.
        weight_bytes: of all constants.
        peak_activation_bytes: most that tensors alive at one time take, if each is freed after
            its last use; an arena needs some more.
        metadata: the file's own description, if it has one.
        contract_problem: why this is no digit classifier as exported here; None if it is.
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
        """All of it, for JSON."""
        return asdict(self) | {"macs": self.macs, "parameters": self.parameters}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(op.macs for op in self.ops)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(op.parameters for op in self.ops)


HEADER = ("op", "input", "output", "parameters", "multiply-accumulates")
RIGHT_ALIGNED = HEADER[3:]


def rows(report: Report) -> list[list[str]]:
    """Return one row of `HEADER` an op."""

    def shown(tensors: tuple[TensorInfo, ...]) -> str:
        return ", ".join(f"{tensor.dtype} {tensor.dimensions}" for tensor in tensors)

    return [
        [op.name, shown(op.inputs), shown(op.outputs), f"{op.parameters:,}", f"{op.macs:,}"]
        for op in report.ops
    ]


def inspect(path: Path) -> Report:
    """Read a .tflite file.

    Raises:
        Error: the file can't be read, isn't a .tflite, or is damaged.
    """
    open_interpreter(path, kernels="builtin")  # the runtime's own verifier comes first
    content = path.read_bytes()
    try:
        return _report(path, content)
    except _DAMAGE as error:
        raise Error(f"{path}: damaged .tflite file, or of a newer schema ({error})") from error


def op_name(code: Any) -> str:
    """The name of one of a file's operator codes; CUSTOM for what is no built-in."""
    # Old files have the code in a byte of its own, new ones where it overflows that.
    return _OPS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def _report(path: Path, content: bytes) -> Report:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    tensors = [_tensor(tensor, model) for tensor in graph.tensors]
    graph.operators = graph.operators or []
    for operator in graph.operators:  # lists that a file leaves out are None
        operator.inputs = [] if operator.inputs is None else operator.inputs
        operator.outputs = [] if operator.outputs is None else operator.outputs
    return Report(
        bytes=len(content),
        inputs=tuple(tensors[i] for i in graph.inputs),
        outputs=tuple(tensors[i] for i in graph.outputs),
        ops=tuple(_op(operator, model, tensors) for operator in graph.operators),
        weight_bytes=sum(tensor.bytes for tensor in tensors if tensor.constant),
        peak_activation_bytes=_peak(graph, tensors),
        metadata=metadata.read(content),
        contract_problem=_contract_problem(path),
    )


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _tensor(tensor: Any, model: Any) -> TensorInfo:
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else quantization.scale
    single = len(scales) == 1
    data = model.buffers[tensor.buffer].data
    return TensorInfo(
        name=_text(tensor.name),
        shape=() if tensor.shape is None else tuple(int(side) for side in tensor.shape),
        dtype=_TYPES.get(tensor.type, f"type {tensor.type}"),
        scale=float(scales[0]) if single else None,
        zero_point=int(quantization.zeroPoint[0]) if single else None,
        constant=data is not None and len(data) > 0,
    )


def _op(operator: Any, model: Any, tensors: list[TensorInfo]) -> Op:
    name = op_name(model.operatorCodes[operator.opcodeIndex])
    inputs = [tensors[i] for i in operator.inputs if i >= 0]
    outputs = tuple(tensors[i] for i in operator.outputs if i >= 0)
    weights = [tensor for tensor in inputs if tensor.constant and name in _WEIGHTED]
    return Op(
        name=name,
        inputs=tuple(tensor for tensor in inputs if not tensor.constant),
        outputs=outputs,
        macs=_macs(name, inputs, outputs),
        parameters=sum(tensor.elements for tensor in weights),
        weight_bytes=sum(tensor.bytes for tensor in weights),
    )


def _macs(name: str, inputs: list[TensorInfo], outputs: tuple[TensorInfo, ...]) -> int:
    """Multiply-accumulates; weights are laid out as the TFLite operators' documentation has it."""
    if name not in _WEIGHTED or len(inputs) < 2:
        return 0
    weights = inputs[1].shape
    if name == "CONV_2D":  # (out, height, width, in)
        return outputs[0].elements * math.prod(weights[1:])
    if name == "DEPTHWISE_CONV_2D":  # (1, height, width, out)
        return outputs[0].elements * math.prod(weights[1:3])
    if name == "FULLY_CONNECTED":  # (out, in)
        return outputs[0].elements * weights[-1]
    return inputs[-1].elements * math.prod(weights[:3])  # TRANSPOSE_CONV: (out, height, width, in)


def _peak(graph: Any, tensors: list[TensorInfo]) -> int:
    last_use = {int(i): len(graph.operators) for i in graph.outputs}
    for step, operator in reversed(list(enumerate(graph.operators))):
        for i in operator.inputs:
            last_use.setdefault(int(i), step)
    alive = {int(i) for i in graph.inputs}
    peak = 0
    for step, operator in enumerate(graph.operators):
        alive |= {int(i) for i in operator.outputs if i >= 0}
        peak = max(peak, sum(tensors[i].bytes for i in alive if not tensors[i].constant))
        alive = {i for i in alive if last_use.get(i, -1) > step}
    return peak


def _contract_problem(path: Path) -> str | None:
    try:
        Classifier(path)
    except Error as error:
        return str(error)
    return None
