"""Quantization noise of each op in the published files and in damaged ones."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import draw_digits

from keras_lenet.edge.classifier import Classifier
from keras_lenet.evaluation import quantization_noise
from keras_lenet.evaluation.metrics import TensorNoise
from keras_lenet.tflite import metadata_writer

PUBLISHED = Path(__file__).parents[1] / "exported"
FLOAT, INT8 = PUBLISHED / "lenet5_float32.tflite", PUBLISHED / "lenet5_int8_ptq.tflite"
UINT8 = PUBLISHED / "lenet5_uint8.tflite"
IMAGES = draw_digits(50, 4)[0]


def test_every_op_has_its_losses():
    rows = quantization_noise.losses(FLOAT, INT8, IMAGES)
    names = quantization_noise.numbered(rows)
    assert [(name, row.shape) for name, row in zip(names, rows, strict=True)] == [
        ("RESIZE_BILINEAR", (1024,)), ("CONV_2D 1", (4704,)), ("MAX_POOL_2D 1", (1176,)),
        ("CONV_2D 2", (1600,)), ("MAX_POOL_2D 2", (400,)), ("CONV_2D 3", (120,)),
        ("FULLY_CONNECTED 1", (84,)), ("FULLY_CONNECTED 2", (10,)), ("SOFTMAX", (10,)),
    ]  # fmt: skip
    assert rows[0].range == pytest.approx((0, 1))
    assert rows[-1].range == pytest.approx((0, 255 / 256))
    before = quantization_noise.EIGHT_BITS
    for row in rows:
        assert row.drop_db == pytest.approx(before - row.sqnr_db)
        before = min(row.sqnr_db, quantization_noise.EIGHT_BITS)


def test_the_losses_of_the_last_op_are_those_of_the_files_answers():
    true, found = (
        Classifier(path, kernels="builtin").predict(IMAGES).astype(float) for path in (FLOAT, INT8)
    )
    row = quantization_noise.losses(FLOAT, INT8, IMAGES)[-1]
    noise = found - true
    assert row.sqnr_db == pytest.approx(10 * np.log10((true**2).sum() / (noise**2).sum()))
    assert row.max_error == pytest.approx(np.abs(noise).max())
    # A zero is not saturated: only 255/256 is an end of the range.
    assert row.saturated == pytest.approx((found == 255 / 256).mean())
    assert 0 < row.saturated < 0.2


def test_a_file_loses_nothing_against_itself():
    rows = quantization_noise.losses(FLOAT, FLOAT, IMAGES)
    assert {(row.sqnr_db, row.drop_db, row.range) for row in rows} == {(None, None, None)}
    assert {(row.max_error, row.saturated) for row in rows} == {(0, 0)}
    assert quantization_noise.worst(rows) is None
    rows = quantization_noise.losses(UINT8, UINT8, IMAGES)
    assert not {row.op for row in rows} & quantization_noise.RESHAPING


@pytest.mark.parametrize(("position", "name"), [
    (1, "CONV_2D 1"), (3, "CONV_2D 2"), (5, "CONV_2D 3"), (6, "FULLY_CONNECTED 1"),
    (7, "FULLY_CONNECTED 2"),
])  # fmt: skip
def test_a_damaged_layer_is_named(tmp_path, position, name):
    model = schema.ModelT.InitFromPackedBuf(INT8.read_bytes(), 0)
    graph = model.subgraphs[0]
    weights = graph.tensors[graph.operators[position].inputs[1]]
    weights.quantization.scale = weights.quantization.scale * np.float32(1.3)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(metadata_writer.pack(model))
    rows = quantization_noise.losses(FLOAT, damaged, IMAGES)
    assert quantization_noise.numbered(rows)[quantization_noise.worst(rows)] == name


def test_sqnr_of_known_noise():
    true = np.array([[3.0, 4.0]])
    assert quantization_noise.sqnr(true, true + np.array([[0.3, 0.4]])) == pytest.approx(20)
    assert quantization_noise.sqnr(true, true) is None
    assert quantization_noise.sqnr(np.zeros((1, 2)), true) is None


@pytest.mark.parametrize(
    ("drops", "worst"),
    [((1.0, 3.0, None, 2.0), 1), ((-1.0, 0.5), 1), ((-1.0, None), None), ((), None)],
)
def test_the_worst_op_has_the_largest_drop(drops, worst):
    rows = [TensorNoise(op="A", shape=(), drop_db=drop, max_error=0, saturated=0) for drop in drops]
    assert quantization_noise.worst(rows) == worst


PLAIN = PUBLISHED / "microcontroller" / "lenet5_int8_plain.tflite"
SAVED_MODEL, OPTIMIZED = PUBLISHED / "saved_model", PUBLISHED / "lenet5_int8.tflite"


@pytest.mark.parametrize(
    ("reference", "quantized", "expected"),
    [
        (FLOAT, PLAIN, True),
        (FLOAT, INT8, True),
        (PLAIN, FLOAT, False),
        (FLOAT, FLOAT, False),
        (FLOAT, SAVED_MODEL, False),
        (FLOAT, OPTIMIZED, False),
    ],
)
def test_a_float_and_an_integer_file_of_the_same_ops_are_comparable(reference, quantized, expected):
    assert quantization_noise.comparable(reference, quantized) is expected
