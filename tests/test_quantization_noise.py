"""Quantization noise, tensor by tensor: of the published files, and of a net of known weights."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import draw_digits

from keras_lenet.edge.classifier import Classifier
from keras_lenet.evaluation import quantization_noise
from keras_lenet.evaluation.metrics import TensorNoise
from keras_lenet.tflite import metadata_writer

PUBLISHED = Path(__file__).parents[1] / "exported"
FLOAT, INT8 = PUBLISHED / "lenet5_float32.tflite", PUBLISHED / "lenet5_int8_ptq.tflite"
IMAGES = draw_digits(50, 4)[0]


def test_every_op_has_its_losses():
    rows = quantization_noise.losses(FLOAT, INT8, IMAGES)
    assert quantization_noise.numbered(rows) == [
        "RESIZE_BILINEAR", "CONV_2D 1", "MAX_POOL_2D 1", "CONV_2D 2", "MAX_POOL_2D 2", "CONV_2D 3",
        "FULLY_CONNECTED 1", "FULLY_CONNECTED 2", "SOFTMAX",
    ]  # fmt: skip
    assert [row.shape for row in rows] == [
        (1024,), (4704,), (1176,), (1600,), (400,), (120,), (84,), (10,), (10,),
    ]  # fmt: skip
    assert [len(row.channels or []) for row in rows] == [0, 6, 0, 16, 0, 120, 84, 10, 0]
    assert rows[0].range == pytest.approx((0, 1))
    assert rows[-1].range == pytest.approx((0, 255 / 256))
    before = quantization_noise.EIGHT_BITS
    for row in rows:
        assert row.drop_db == pytest.approx(before - row.sqnr_db)
        before = min(row.sqnr_db, quantization_noise.EIGHT_BITS)


def test_the_last_ops_losses_are_those_of_the_files_answers():
    true, found = (
        Classifier(path, kernels="builtin").predict(IMAGES).astype(float) for path in (FLOAT, INT8)
    )
    row = quantization_noise.losses(FLOAT, INT8, IMAGES)[-1]
    noise = found - true
    assert row.sqnr_db == pytest.approx(10 * np.log10((true**2).sum() / (noise**2).sum()))
    assert row.max_error == pytest.approx(np.abs(noise).max())
    # Zero is no saturation: only 255/256 is an end of the range.
    assert row.saturated == pytest.approx((found == 255 / 256).mean())
    assert 0 < row.saturated < 0.2


def test_a_files_losses_against_itself_are_none():
    rows = quantization_noise.losses(FLOAT, FLOAT, IMAGES)
    assert {row.sqnr_db for row in rows} == {row.drop_db for row in rows} == {None}
    assert {row.max_error for row in rows} == {row.saturated for row in rows} == {0}
    assert {row.range for row in rows} == {None}
    assert quantization_noise.worst(rows) is None


KERNEL = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 1, 3)
KERNEL[0, 0, 0] = (-20, 2, -40)
"""Of three channels, whose greatest absolute weights are 20, 11 and 40."""


def test_weights_are_told_by_output_channel(tmp_path):
    """In a file these are the first axis of a convolution, but the last of a depthwise one."""

    @tf.function(input_signature=[tf.TensorSpec((1, 28, 28, 1))])
    def net(values):
        values = tf.nn.conv2d(values, KERNEL, 1, "VALID") + tf.constant([1.0, 2.0, 3.0])
        values = tf.nn.max_pool2d(values, 2, 2, "VALID")
        kernel = KERNEL.swapaxes(2, 3)
        return tf.nn.depthwise_conv2d(values, kernel, [1, 1, 1, 1], "VALID") + 1.0

    path = tmp_path / "net.tflite"
    traced = [net.get_concrete_function()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(traced, tf.Module())
    path.write_bytes(converter.convert())
    losses = quantization_noise.losses(path, path, IMAGES[:1])
    assert [(row.op, row.channels) for row in losses] == [
        ("CONV_2D", (20, 11, 40)), ("MAX_POOL_2D", None), ("DEPTHWISE_CONV_2D", (20, 11, 40)),
    ]  # fmt: skip
    assert not quantization_noise.comparable(path, INT8)


def damage(path, position, target, factor):
    """Multiply the weight scales of the op at `position`."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    weights = graph.tensors[graph.operators[position].inputs[1]]
    weights.quantization.scale = weights.quantization.scale * factor
    target.write_bytes(metadata_writer.pack(model))
    return target


@pytest.mark.parametrize(("position", "name"), [
    (1, "CONV_2D 1"), (3, "CONV_2D 2"), (5, "CONV_2D 3"), (6, "FULLY_CONNECTED 1"),
    (7, "FULLY_CONNECTED 2"),
])  # fmt: skip
def test_a_damaged_layer_is_named(tmp_path, position, name):
    damaged = damage(INT8, position, tmp_path / "damaged.tflite", np.float32(1.3))
    rows = quantization_noise.losses(FLOAT, damaged, IMAGES)
    assert quantization_noise.numbered(rows)[quantization_noise.worst(rows)] == name
    sound = quantization_noise.losses(FLOAT, INT8, IMAGES)[position]
    expected = 1.3 * np.array(sound.channels)
    np.testing.assert_allclose(rows[position].channels, expected, rtol=1e-6)


def test_sqnr_of_known_noise():
    true = np.array([[3.0, 4.0]])
    assert quantization_noise.sqnr(true, true + np.array([[0.3, 0.4]])) == pytest.approx(20)
    assert quantization_noise.sqnr(true, true - np.array([[5.0, 0.0]])) == pytest.approx(0)
    assert quantization_noise.sqnr(2 * true, np.array([[6.0, 9.0]])) == pytest.approx(20)
    assert quantization_noise.sqnr(true, true) is None
    assert quantization_noise.sqnr(np.zeros((1, 2)), true) is None


def row(op, drop):
    return TensorNoise(op=op, shape=(), drop_db=drop, max_error=0, saturated=0)


def test_the_worst_op_is_the_one_with_the_largest_drop():
    assert (
        quantization_noise.worst([row("A", 1.0), row("B", 3.0), row("C", None), row("D", 2.0)]) == 1
    )
    assert quantization_noise.worst([row("A", -1.0), row("B", 0.5)]) == 1
    assert quantization_noise.worst([row("A", -1.0), row("B", None)]) is None
    assert quantization_noise.worst([]) is None


def test_only_ops_of_one_name_are_numbered():
    rows = [row("A", 0), row("B", 0), row("A", 0), row("A", 0)]
    assert quantization_noise.numbered(rows) == ["A 1", "B", "A 2", "A 3"]


PLAIN = PUBLISHED / "microcontroller" / "lenet5_int8_plain.tflite"
SAVED_MODEL, OPTIMIZED = PUBLISHED / "saved_model", PUBLISHED / "lenet5_int8.tflite"


@pytest.mark.parametrize(
    ("reference", "quantized", "expected"),
    [
        (FLOAT, PLAIN, True),
        (FLOAT, INT8, True),
        (PLAIN, FLOAT, False),
        (FLOAT, FLOAT, False),
        (PLAIN, PLAIN, False),
        (SAVED_MODEL, PLAIN, False),
        (FLOAT, SAVED_MODEL, False),
        (FLOAT, OPTIMIZED, False),
    ],
)
def test_float_and_integer_files_of_the_same_ops_are_comparable(reference, quantized, expected):
    assert quantization_noise.comparable(reference, quantized) is expected
