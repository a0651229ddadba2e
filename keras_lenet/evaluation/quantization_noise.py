"""Where quantization loses: each tensor along the network, int8 beside float."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from keras_lenet.edge.classifier import Tensor
from keras_lenet.tflite.inspection import inspect, op_name

EIGHT_BITS = 48.0
"""About what 8 bits hold of an evenly spread signal, in dB: 6.02 a bit. No more can be lost."""
RESHAPING = {"RESHAPE", "QUANTIZE", "DEQUANTIZE"}
"""Ops that one of two files may have and the other not, without computing anything."""


def comparable(reference: Path, quantized: Path) -> bool:
    """Whether `losses` can say anything: .tflite files of one architecture, float and integer."""
    if {reference.suffix, quantized.suffix} != {".tflite"}:
        return False
    reports = [inspect(path) for path in (reference, quantized)]
    names = [[op.name for op in report.ops if op.name not in RESHAPING] for report in reports]
    kinds = [report.inputs[0].dtype == "float32" for report in reports]
    return names[0] == names[1] and kinds == [True, False]


def losses(reference: Path, quantized: Path, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Compare every op's output in two .tflite files of one architecture.

    Args:
        reference: the float file.
        quantized: the int8 or uint8 file; `comparable` with it.
        images: uint8, (N, 28, 28).

    Returns:
        One row an op, in order: its `op` and output `shape`; `sqnr_db`, the signal to quantization
        noise ratio 10·log10(Σ f² / Σ (f − q)²), None where there is no noise; `drop_db`, how much
        of it was lost since the op before, counted from `EIGHT_BITS` at most; `max_error`; `range`,
        what the integers can express; `saturated`, the share of values at either end of it, but
        for a zero that lies there; and of ops with weights `channels`, the greatest absolute
        weight of each output channel.
    """
    expected, found = _outputs(reference, images), _outputs(quantized, images)
    rows: list[dict[str, Any]] = []
    for (op, _, true, _), (_, tensor, values, channels) in zip(expected, found, strict=True):
        real = tensor.dequantize(values).astype(np.float64)
        ratio = sqnr(true.astype(np.float64), real)
        known = (row["sqnr_db"] for row in reversed(rows) if row["sqnr_db"] is not None)
        before = next(known, EIGHT_BITS)
        rows.append(
            {
                "op": op,
                "shape": list(values.shape[1:]),
                "sqnr_db": ratio,
                "drop_db": None if ratio is None else min(before, EIGHT_BITS) - ratio,
                "max_error": float(np.abs(true - real).max()),
                "saturated": _saturated(tensor, values),
                "range": _range(tensor),
                "channels": channels,
            }
        )
    return rows


def sqnr(signal: NDArray[np.float64], rounded: NDArray[np.float64]) -> float | None:
    """Signal to quantization noise ratio in dB; None where one of the two is nothing."""
    power, noise = float((signal**2).sum()), float(((signal - rounded) ** 2).sum())
    return 10 * math.log10(power / noise) if power and noise else None


def worst(rows: list[dict[str, Any]]) -> int | None:
    """The position of the op after which the most is lost; None if nothing is."""
    drops = [(row["drop_db"] or 0, position) for position, row in enumerate(rows)]
    drop, position = max(drops, default=(0, 0))
    return position if drop > 0 else None


def numbered(rows: list[dict[str, Any]]) -> list[str]:
    """The ops' names, made distinct: CONV_2D 1, CONV_2D 2."""
    names = [row["op"] for row in rows]
    return [
        f"{name} {names[: position + 1].count(name)}" if names.count(name) > 1 else name
        for position, name in enumerate(names)
    ]


def _outputs(
    path: Path, images: NDArray[np.uint8]
) -> list[tuple[str, Tensor, NDArray[Any], list[float] | None]]:
    """Each op that computes: its name, output tensor, values (N, …), and its weights' extremes."""
    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        # The delegate would keep what lies between its ops to itself.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    entrance = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(entrance["index"], [len(images), 28, 28, 1])
    interpreter.allocate_tensors()
    pixels = Tensor.of(entrance).quantize(images[..., np.newaxis] / 255)
    interpreter.set_tensor(entrance["index"], pixels)
    interpreter.invoke()
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    outputs = []
    for operator in graph.operators:
        name = op_name(model.operatorCodes[operator.opcodeIndex])
        if name not in RESHAPING:
            index = int(operator.outputs[0])
            values = interpreter.get_tensor(index).reshape(len(images), -1)
            axis = -1 if name == "DEPTHWISE_CONV_2D" else 0
            channels = _channels(operator, axis, details, interpreter)
            outputs.append((name, Tensor.of(details[index]), values, channels))
    return outputs


def _channels(
    operator: Any, axis: int, details: dict[int, Any], interpreter: Any
) -> list[float] | None:
    """The greatest absolute weight of each output channel, which are on `axis` of the weights.

    None for an op without weights.
    """
    if len(operator.inputs) < 3:
        return None
    index = int(operator.inputs[1])
    weights = np.moveaxis(interpreter.get_tensor(index), axis, 0)
    extremes = np.abs(weights.reshape(len(weights), -1).astype(np.float64)).max(axis=1)
    scales = details[index]["quantization_parameters"]["scales"]
    return (extremes * scales if len(scales) else extremes).tolist()


def _saturated(tensor: Tensor, values: NDArray[Any]) -> float:
    if not tensor.scale:
        return 0.0
    limits = np.iinfo(tensor.dtype)
    ends = [end for end in (limits.min, limits.max) if end != tensor.zero_point]
    return float(np.isin(values, ends).mean())


def _range(tensor: Tensor) -> list[float] | None:
    if not tensor.scale:
        return None
    limits = np.iinfo(tensor.dtype)
    return [(int(end) - tensor.zero_point) * tensor.scale for end in (limits.min, limits.max)]
