import json

import pytest
import tensorflow as tf
from conftest import PIPELINES, keras_lenet

from keras_lenet.errors import Error
from keras_lenet.tflite import inspection

PATH = PIPELINES.parent / "exported" / "microcontroller" / "lenet5_int8_plain.tflite"


@pytest.fixture(scope="module")
def report():
    return inspection.inspect(PATH)


def test_ops_in_order_with_their_arithmetic(report):
    """Multiply-accumulates by hand: output places × kernel × input channels."""
    assert [(op.name, op.parameters, op.macs) for op in report.ops] == [
        ("RESIZE_BILINEAR", 0, 0),
        ("CONV_2D", 156, 28 * 28 * 6 * 25),
        ("MAX_POOL_2D", 0, 0),
        ("CONV_2D", 2_416, 10 * 10 * 16 * 25 * 6),
        ("MAX_POOL_2D", 0, 0),
        ("CONV_2D", 48_120, 120 * 25 * 16),
        ("FULLY_CONNECTED", 10_164, 84 * 120),
        ("FULLY_CONNECTED", 850, 10 * 84),
        ("SOFTMAX", 0, 0),
    ]
    assert (report.parameters, report.macs) == (61_706, 416_520)


def test_tensors_and_memory(report):
    (image,), (scores,) = report.inputs, report.outputs
    assert (image.dtype, image.shape, image.zero_point) == ("int8", (1, 28, 28, 1), -128)
    assert image.scale == pytest.approx(1 / 255)
    assert (scores.dtype, scores.shape, scores.scale) == ("int8", (1, 10), 1 / 256)
    # At the first pooling: its input and its output.
    assert report.peak_activation_bytes == 28 * 28 * 6 + 14 * 14 * 6
    assert report.contract_problem is None
    assert report.metadata["name"] == "lenet5"


def other_model():
    inputs = [tf.TensorSpec((2, 8, 8, 3), tf.float32), tf.TensorSpec((2, 4, 4, 5), tf.float32)]
    kernel = tf.ones((3, 3, 3, 2))

    @tf.function(input_signature=inputs)
    def function(image, other):
        x = tf.nn.depthwise_conv2d(image, kernel, (1, 2, 2, 1), "SAME")  # (2, 4, 4, 6)
        return tf.concat([x, other], 3), tf.reduce_max(image)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    return converter.convert()


def test_any_other_model(tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(other_model())
    report = inspection.inspect(path)
    assert len(report.inputs) == len(report.outputs) == 2
    depthwise = next(op for op in report.ops if op.name == "DEPTHWISE_CONV_2D")
    assert depthwise.macs == 2 * 4 * 4 * 6 * 9
    assert depthwise.parameters == 3 * 3 * 3 * 2 + 6
    assert "expected one input, found 2" in report.contract_problem
    assert report.metadata is None


@pytest.mark.slow
def test_the_command_prints_the_same_as_json(report):
    result = keras_lenet("inspect", PATH, "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(report.as_dict()))
    assert result.stderr == ""
    result = keras_lenet("inspect", PATH)
    for part in ("CONV_2D", "416,520 multiply-accumulates", "contract  met", "61,706 parameters"):
        assert part in result.stdout


@pytest.mark.parametrize("content", [b"", b"\x1c\x00\x00\x00TFL3" + bytes(60), b"no model"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(Error, match=r"bad\.tflite: "):
        inspection.inspect(tmp_path / "bad.tflite")
