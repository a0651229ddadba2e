"""Quantization noise: each tensor along the network, int8 beside float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from keras_lenet.edge.classifier import Tensor
from keras_lenet.evaluation.metrics import TensorNoise
from keras_lenet.tflite.inspection import inspect, op_name

EIGHT_BITS = 48.0
"""SQNR of an evenly spread signal in 8 bits, in dB: 6.02 a bit. No more can be lost."""
RESHAPING = {"RESHAPE", "QUANTIZE", "DEQUANTIZE"}
"""Ops that compute nothing, so that one of two files may have them and the other not."""


class _Output(NamedTuple):
    """An op's output: values (N, …), and the greatest absolute weight of each output channel."""

    op: str
    tensor: Tensor
    values: NDArray[Any]
    channels: tuple[float, ...] | None


def comparable(reference: Path, quantized: Path) -> bool:
    """Return whether two files are .tflite of one architecture, the first float, the second not."""
    if {reference.suffix, quantized.suffix} != {".tflite"}:
        return False
    reports = [inspect(path) for path in (reference, quantized)]
    names = [[op.name for op in report.ops if op.name not in RESHAPING] for report in reports]
    kinds = [report.inputs[0].dtype == "float32" for report in reports]
    return names[0] == names[1] and kinds == [True, False]


def losses(reference: Path, quantized: Path, images: NDArray[np.uint8]) -> tuple[TensorNoise, ...]:
    """Compare every op's output in two .tflite files of one architecture, op by op.

    The drop of the SQNR is counted from `EIGHT_BITS` at most. A zero at an end of the integer range
    is not saturated.

    Args:
        reference: the float file.
        quantized: the int8 or uint8 file; `comparable` with it.
        images: uint8, (N, 28, 28).
    """
    rows = []
    before = EIGHT_BITS
    outputs = zip(_outputs(reference, images), _outputs(quantized, images), strict=True)
    for expected, (op, tensor, values, channels) in outputs:
        real = tensor.dequantize(values).astype(np.float64)
        ratio = sqnr(expected.values.astype(np.float64), real)
        limits, saturated = _range(tensor, values)
        rows.append(
            TensorNoise(
                op=op,
                shape=values.shape[1:],
                sqnr_db=ratio,
                drop_db=None if ratio is None else min(before, EIGHT_BITS) - ratio,
                max_error=float(np.abs(expected.values - real).max()),
                saturated=saturated,
                range=limits,
                channels=channels,
            )
        )
        before = before if ratio is None else ratio
    return tuple(rows)


def sqnr(signal: NDArray[np.float64], rounded: NDArray[np.float64]) -> float | None:
    """Return 10·log10(Σ f² / Σ (f − q)²) in dB; None without signal or without noise."""
    power, noise = float((signal**2).sum()), float(((signal - rounded) ** 2).sum())
    return 10 * math.log10(power / noise) if power and noise else None


def worst(rows: Sequence[TensorNoise]) -> int | None:
    """Return the position of the op with the largest drop of the SQNR; None without a drop."""
    drops = [row.drop_db or 0 for row in rows]
    return drops.index(max(drops)) if max(drops, default=0) > 0 else None


def numbered(rows: Sequence[TensorNoise]) -> list[str]:
    """Return the ops' names, made distinct: CONV_2D 1, CONV_2D 2."""
    names = [row.op for row in rows]
    return [
        f"{name} {names[: position + 1].count(name)}" if names.count(name) > 1 else name
        for position, name in enumerate(names)
    ]


def _outputs(path: Path, images: NDArray[np.uint8]) -> list[_Output]:
    """Run a file over images; return the output of each op that computes."""
    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        # The XNNPACK delegate would hide the tensors between its ops.
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
    for operator in model.subgraphs[0].operators:
        name = op_name(model.operatorCodes[operator.opcodeIndex])
        if name in RESHAPING:
            continue
        index = int(operator.outputs[0])
        channels = None
        if len(operator.inputs) > 2:
            weights = int(operator.inputs[1])
            scales = details[weights]["quantization_parameters"]["scales"]
            axis = -1 if name == "DEPTHWISE_CONV_2D" else 0
            channels = _channels(interpreter.get_tensor(weights), axis, scales)
        values = interpreter.get_tensor(index).reshape(len(images), -1)
        outputs.append(_Output(name, Tensor.of(details[index]), values, channels))
    return outputs


def _channels(weights: NDArray[Any], axis: int, scales: NDArray[np.float32]) -> tuple[float, ...]:
    """Return the greatest absolute weight of each output channel, which are on `axis`."""
    weights = np.moveaxis(weights, axis, 0).astype(np.float64)
    extremes = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    return tuple((extremes * scales if len(scales) else extremes).tolist())


def _range(tensor: Tensor, values: NDArray[Any]) -> tuple[tuple[float, float] | None, float]:
    """Return an integer tensor's real range, and the share of values at its ends, zero excepted."""
    if not tensor.scale:
        return None, 0.0
    limits = np.iinfo(tensor.dtype)
    ends = np.array([limits.min, limits.max])
    saturated = float(np.isin(values, ends[ends != tensor.zero_point]).mean())
    low, high = ((ends - tensor.zero_point) * tensor.scale).tolist()
    return (low, high), saturated
