"""Quantization noise: the output of each op in an int8 file, compared with a float file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from keras_lenet.edge.classifier import Tensor
from keras_lenet.evaluation.metrics import TensorNoise
from keras_lenet.tflite.inspection import inspect, op_name

EIGHT_BITS = 48.0
"""SQNR of a uniform signal in 8 bits, in dB: 6.02 for each bit."""
RESHAPING = {"RESHAPE", "QUANTIZE", "DEQUANTIZE"}
"""Ops that compute nothing: a comparison skips them, because only one file may have them."""


def comparable(reference: Path, quantized: Path) -> bool:
    """Return whether a float and an integer .tflite have the same ops in the same order."""
    if {reference.suffix, quantized.suffix} != {".tflite"}:
        return False
    reports = [inspect(path) for path in (reference, quantized)]
    names = [[op.name for op in report.ops if op.name not in RESHAPING] for report in reports]
    kinds = [report.inputs[0].dtype == "float32" for report in reports]
    return names[0] == names[1] and kinds == [True, False]


def losses(reference: Path, quantized: Path, images: NDArray[np.uint8]) -> tuple[TensorNoise, ...]:
    """Compare the output of every op in two `comparable` .tflite files.

    Drops of the SQNR count from `EIGHT_BITS` at most.

    Args:
        reference: the float file.
        quantized: the int8 or uint8 file.
        images: uint8, (N, 28, 28).
    """
    rows = []
    before = EIGHT_BITS
    outputs = zip(_outputs(reference, images), _outputs(quantized, images), strict=True)
    for (_, _, expected), (op, tensor, values) in outputs:
        real = tensor.dequantize(values).astype(np.float64)
        ratio = sqnr(expected.astype(np.float64), real)
        limits, saturated = _range(tensor, values)
        rows.append(
            TensorNoise(
                op=op,
                shape=values.shape[1:],
                sqnr_db=ratio,
                drop_db=None if ratio is None else min(before, EIGHT_BITS) - ratio,
                max_error=float(np.abs(expected - real).max()),
                saturated=saturated,
                range=limits,
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


def _outputs(path: Path, images: NDArray[np.uint8]) -> list[tuple[str, Tensor, NDArray[Any]]]:
    """Run a file on images; return the name, the tensor and the values (N, …) of each op."""
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
        values = interpreter.get_tensor(index).reshape(len(images), -1)
        outputs.append((name, Tensor.of(details[index]), values))
    return outputs


def _range(tensor: Tensor, values: NDArray[Any]) -> tuple[tuple[float, float] | None, float]:
    """Return the real range of an integer tensor, and the share of values at its ends.

    A zero at an end, such as after ReLU, is not saturated.
    """
    if not tensor.scale:
        return None, 0.0
    limits = np.iinfo(tensor.dtype)
    ends = np.array([limits.min, limits.max])
    saturated = float(np.isin(values, ends[ends != tensor.zero_point]).mean())
    low, high = ((ends - tensor.zero_point) * tensor.scale).tolist()
    return (low, high), saturated
