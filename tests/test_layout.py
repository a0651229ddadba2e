"""Optimized layouts against plain ones: the same outputs, bit for bit, by every kernel set."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import PIPELINES, keras_lenet
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lenet import results
from keras_lenet.edge import inspection, layout, metadata_writer
from keras_lenet.edge.classifier import Classifier, Kernels, open_interpreter
from keras_lenet.stages import export

PLAIN = PIPELINES.parent / "exported" / "microcontroller" / "lenet5_int8.tflite"


def pictures(count, seed=0):
    """Random pixels, and the same but for an eighth of them empty: uint8 (count, 28, 28)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28))
    images[::2] *= generator.random(images[::2].shape) < 0.125
    return images.astype(np.uint8)


def op_names(content, folder):
    (folder / "listed.tflite").write_bytes(content)
    return [op.name for op in inspection.inspect(folder / "listed.tflite").ops]


def agree(content, folder, kernels, images):
    """Assert that both layouts give the same bytes, one image at a time, several, and one again."""
    plain, optimized = folder / "plain.tflite", folder / "optimized.tflite"
    plain.write_bytes(content)
    optimized.write_bytes(layout.optimize(content))
    assert plain.read_bytes() != optimized.read_bytes()
    expected, found = (Classifier(path, kernels=kernels) for path in (plain, optimized))
    truth = expected.raw(images)
    assert len(np.unique(truth)) > 20  # saturated outputs would prove nothing
    for batch_size in (1, len(images), 3, 1):
        np.testing.assert_array_equal(found.raw(images, batch_size), truth)


def randomized(seed):
    """The published int8 file with another first convolution and zero point, up to its pooling."""
    generator = np.random.default_rng(seed)
    model = schema.ModelT.InitFromPackedBuf(PLAIN.read_bytes(), 0)
    graph = model.subgraphs[0]
    tensors, (resize, convolution, pooling) = graph.tensors, graph.operators[:3]
    zero_point = generator.integers(-128, 128, 1)
    for tensor in (resize.inputs[0], resize.outputs[0]):
        tensors[tensor].quantization.zeroPoint = zero_point
    _, weights, bias = (tensors[i] for i in convolution.inputs)
    values = generator.integers(-127, 128, weights.shape, np.int8)
    model.buffers[weights.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    values = generator.integers(-5_000, 5_000, bias.shape, "<i4")
    model.buffers[bias.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    weights.quantization.scale = generator.uniform(1e-4, 5e-3, 6).astype(np.float32)
    bias.quantization.scale = weights.quantization.scale * np.float32(1 / 255)
    graph.operators, graph.outputs, model.signatureDefs = graph.operators[:3], pooling.outputs, None
    return metadata_writer.pack(model)


def output(path, kernels, images):
    """The output of any file for pixels, taken as int8: (N, …)."""
    interpreter = open_interpreter(path, kernels=kernels)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, [len(images), 28, 28, 1])
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, images.view(np.int8)[..., np.newaxis])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("kernels", get_args(Kernels))
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([1, 2, 5]))
def test_any_weights_give_the_same_bytes(kernels, seed, count, tmp_path_factory):
    folder, content = tmp_path_factory.mktemp("models"), randomized(seed)
    plain, optimized = folder / "plain.tflite", folder / "optimized.tflite"
    plain.write_bytes(content)
    optimized.write_bytes(layout.optimize(content))
    expected, found = (output(path, kernels, pictures(count, seed)) for path in (plain, optimized))
    assert expected.shape == (count, 14, 14, 6)
    assert len(np.unique(expected)) > 20  # saturated outputs would prove nothing
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernels", get_args(Kernels))
def test_a_uint8_file_gives_the_same_bytes(kernels, tmp_path, finished):
    """Of which the run's own is optimized already, and the plain one is asked through int8."""
    folder, images = finished.folder / "export", pictures(7)
    optimized = Classifier(folder / "lenet5_uint8.tflite", kernels=kernels).raw(images)
    plain = Classifier(export.plain_int8(folder, "lenet5"), kernels=kernels).raw(images)
    np.testing.assert_array_equal(optimized.astype(int) - 128, plain)


def weights(*shape):
    generator = np.random.default_rng(sum(shape))
    return tf.constant(generator.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape), tf.float32)


def dense(x):
    size = int(np.prod(x.shape[1:]))
    return tf.reshape(x, (1, size)) @ (6 * weights(size, 10))  # answers that differ


def convolved(x, filters=6, taps=(5, 5), stride=1, padding="VALID"):
    kernel = weights(*taps, int(x.shape[3]), filters)
    return tf.nn.relu(tf.nn.conv2d(x, kernel, stride, padding))


def maximum(x, size=2, stride=2, padding="VALID"):
    return tf.nn.max_pool2d(x, size, stride, padding)


def converted(network, size=28, io_type=tf.int8):
    calibration = None if io_type == tf.float32 else pictures(30)
    return export.convert(lambda x, training: dense(network(x)), size, io_type, calibration)


SUITED = {
    "many filters": (lambda x: maximum(convolved(x, 32)), 28),
    "one filter": (lambda x: maximum(convolved(x, 1)), 32),
    "an oblong filter": (lambda x: maximum(convolved(x, 3, (7, 1))), 28),
    "another convolution after it": (lambda x: maximum(convolved(maximum(convolved(x)), 4)), 32),
    "a resize alone": (lambda x: tf.nn.avg_pool2d(convolved(x), 2, 2, "VALID"), 32),
}


@pytest.mark.parametrize("kernels", get_args(Kernels))
@pytest.mark.parametrize("name", SUITED)
def test_other_networks_give_the_same_bytes(name, kernels, tmp_path):
    network, size = SUITED[name]
    agree(converted(network, size), tmp_path, kernels, pictures(5))


UNSUITED = {
    "no convolution": lambda x: maximum(x),
    "mean pooling": lambda x: tf.nn.avg_pool2d(convolved(x), 2, 2, "VALID"),
    "no pooling": lambda x: convolved(x),
    "overlapping pooling": lambda x: maximum(convolved(x), 3, 2),
    "strides": lambda x: maximum(convolved(x, stride=2)),
    "padding": lambda x: maximum(convolved(x, padding="SAME")),
    "a size that no block divides": lambda x: maximum(convolved(x, taps=(3, 3))),
    "several channels": lambda x: maximum(convolved(tf.concat([x, x], 3))),
    "used twice": lambda x: tf.concat([maximum(y := convolved(x)), y[:, ::2, ::2]], 3),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_what_does_not_suit_comes_back_unchanged(name):
    content = converted(UNSUITED[name])
    assert layout.optimize(content) == content


def test_a_float_file_comes_back_unchanged():
    content = converted(lambda x: maximum(convolved(x)), 32, tf.float32)
    assert layout.optimize(content) == content


def test_what_is_optimized_comes_back_unchanged():
    content = layout.optimize(PLAIN.read_bytes())
    assert layout.optimize(content) == content


def test_the_first_convolution_sees_blocks_as_channels(tmp_path):
    path = tmp_path / "optimized.tflite"
    path.write_bytes(layout.optimize(PLAIN.read_bytes()))
    convolution, *_ = (op for op in inspection.inspect(path).ops if op.name == "CONV_2D")
    assert convolution.inputs[0].shape == (1, 16, 8, 8)
    assert convolution.outputs[0].shape == (1, 14, 7, 48)
    assert convolution.parameters == 48 * 3 * 2 * 8 + 48


def test_a_run_proves_it_on_the_test_set(finished):
    folder = finished.folder / "export"
    deployed, plain = folder / "lenet5_int8.tflite", export.plain_int8(folder, "lenet5")
    assert "TRANSPOSE" in op_names(deployed.read_bytes(), finished.folder.parent)
    assert "TRANSPOSE" not in op_names(plain.read_bytes(), finished.folder.parent)
    metrics = results.read(finished.folder / "evaluate")
    assert metrics["layout"] == {
        "kernels": "reference", "images": 100, "unequal": 0, "largest": 0,
    }  # fmt: skip
    assert "its outputs differ nowhere (reference kernels)" in results.caption(metrics)
    metrics["layout"] |= {"unequal": 2, "largest": 5}
    assert "its outputs differ on 2 images, by at most 5" in results.caption(metrics)


def test_a_recipe_can_do_without(finished, tmp_path):
    arguments = (*finished.copy(tmp_path), "--set", "export.optimize_layout=false")
    result = keras_lenet(*arguments, "--until", "evaluate")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "smoke" / "export"
    plain = export.plain_int8(folder, "lenet5").read_bytes()
    assert (folder / "lenet5_int8.tflite").read_bytes() == plain
    assert plain == export.plain_int8(finished.folder / "export", "lenet5").read_bytes()
    assert "layout" not in results.read(tmp_path / "smoke" / "evaluate")
