"""Optimized layouts against plain ones: the same outputs, bit for bit, by every kernel set."""

import copy
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import PIPELINES
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_nets import pictures

from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier, Kernels, open_interpreter
from keras_lenet.tflite import convert, layout, metadata_writer

PLAIN = PIPELINES.parent / "exported" / "microcontroller" / "lenet5_int8_plain.tflite"


def both_layouts(content, folder):
    """Write a file in the plain and in the optimized layout."""
    paths = folder / "plain.tflite", folder / "optimized.tflite"
    for path, each in zip(paths, (content, layout.optimize(content)), strict=True):
        path.write_bytes(each)
    assert paths[0].read_bytes() != paths[1].read_bytes()
    return paths


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
    paths = both_layouts(randomized(seed), tmp_path_factory.mktemp("models"))
    expected, found = (output(path, kernels, pictures(count, seed)) for path in paths)
    assert expected.shape == (count, 14, 14, 6)
    assume(len(np.unique(expected)) > 4)  # saturated outputs would prove nothing
    np.testing.assert_array_equal(found, expected)


def weights(*shape):
    generator = np.random.default_rng(sum(shape))
    return tf.constant(generator.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape), tf.float32)


def dense(x):
    size = int(np.prod(x.shape[1:]))
    return tf.reshape(x, (1, size)) @ (6 * weights(size, 10))  # answers that differ


def convolved(x, filters=6, taps=(5, 5)):
    return tf.nn.relu(tf.nn.conv2d(x, weights(*taps, int(x.shape[3]), filters), 1, "VALID"))


def maximum(x):
    return tf.nn.max_pool2d(x, 2, 2, "VALID")


@pytest.mark.parametrize("kernels", get_args(Kernels))
@pytest.mark.parametrize(
    ("network", "size", "io_type"),
    [
        pytest.param(lambda x: maximum(convolved(x, 32)), 28, tf.int8, id="many filters"),
        pytest.param(lambda x: maximum(convolved(x, 1)), 32, tf.int8, id="one filter"),
        pytest.param(lambda x: maximum(convolved(x, 1)), 32, tf.uint8, id="uint8"),
        pytest.param(lambda x: maximum(convolved(x, 3, (7, 1))), 28, tf.int8, id="oblong filter"),
        pytest.param(
            lambda x: maximum(convolved(maximum(convolved(x)), 4)), 32, tf.int8,
            id="another convolution after it",
        ),
        pytest.param(
            lambda x: tf.nn.avg_pool2d(convolved(x), 2, 2, "VALID"), 32, tf.int8,
            id="resize alone",
        ),
    ],
)  # fmt: skip
def test_other_networks_give_the_same_bytes(network, size, io_type, kernels, tmp_path):
    """One image at a time, several, and one again."""
    content = convert.convert(lambda x, training: dense(network(x)), size, io_type, pictures(30))
    expected, found = (
        Classifier(path, kernels=kernels) for path in both_layouts(content, tmp_path)
    )
    images = pictures(7)
    truth = expected.raw(images)
    assert len(np.unique(truth)) > 20  # saturated outputs would prove nothing
    for batch_size in (1, len(images), 3, 1):
        np.testing.assert_array_equal(found.raw(images, batch_size), truth)


class Graph:
    """Some ops of the published int8 file, to be changed in one thing and optimized."""

    def __init__(self, first, last):
        self.model = schema.ModelT.InitFromPackedBuf(PLAIN.read_bytes(), 0)
        self.graph = self.model.subgraphs[0]
        self.operators = self.graph.operators = self.graph.operators[first:last]

    def shape(self, end, shape):
        tensor = self.graph.tensors[getattr(self.operators[0], end)[0]]
        tensor.shape = np.array(shape, np.int32)

    def type(self, name):
        tensor = self.graph.tensors[self.operators[0].inputs[0]]
        tensor.type = getattr(schema.TensorType, name)

    def option(self, operator, name, value):
        assert getattr(self.operators[operator].builtinOptions, name) != value
        setattr(self.operators[operator].builtinOptions, name, value)

    def add_reader(self):
        self.operators.append(copy.deepcopy(self.operators[1]))

    def average(self):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.AVERAGE_POOL_2D
        self.model.operatorCodes.append(code)
        self.operators[1].opcodeIndex = len(self.model.operatorCodes) - 1

    def is_optimized(self):
        content = metadata_writer.pack(self.model)
        return layout.optimize(content) != content


CONVOLUTION_AND_POOLING, RESIZE = (1, 3), (0, 1)


@pytest.mark.parametrize(
    ("ops", "change", "arguments"),
    [
        (CONVOLUTION_AND_POOLING, "option", (0, "strideH", 2)),
        (CONVOLUTION_AND_POOLING, "option", (0, "strideW", 2)),
        (CONVOLUTION_AND_POOLING, "option", (0, "dilationHFactor", 2)),
        (CONVOLUTION_AND_POOLING, "option", (0, "dilationWFactor", 2)),
        (CONVOLUTION_AND_POOLING, "option", (0, "padding", schema.Padding.SAME)),
        (CONVOLUTION_AND_POOLING, "option", (1, "filterHeight", 3)),
        (CONVOLUTION_AND_POOLING, "option", (1, "filterWidth", 3)),
        (CONVOLUTION_AND_POOLING, "option", (1, "strideH", 1)),
        (CONVOLUTION_AND_POOLING, "option", (1, "strideW", 1)),
        (CONVOLUTION_AND_POOLING, "option", (1, "padding", schema.Padding.SAME)),
        (CONVOLUTION_AND_POOLING, "shape", ("inputs", (1, 33, 32, 1))),
        (CONVOLUTION_AND_POOLING, "shape", ("inputs", (1, 32, 34, 1))),
        (CONVOLUTION_AND_POOLING, "shape", ("outputs", (1, 27, 28, 6))),
        (CONVOLUTION_AND_POOLING, "shape", ("outputs", (1, 28, 26, 6))),
        (CONVOLUTION_AND_POOLING, "shape", ("inputs", (1, 32, 32, 2))),
        (CONVOLUTION_AND_POOLING, "type", ("FLOAT32",)),
        (CONVOLUTION_AND_POOLING, "average", ()),
        (CONVOLUTION_AND_POOLING, "add_reader", ()),
        (RESIZE, "shape", ("inputs", (1, 28, 28, 3))),
        (RESIZE, "type", ("FLOAT32",)),
    ],
)
def test_a_network_that_does_not_suit_comes_back_unchanged(ops, change, arguments):
    graph = Graph(*ops)
    assert graph.is_optimized()
    graph = Graph(*ops)
    getattr(graph, change)(*arguments)
    assert not graph.is_optimized()


@pytest.mark.parametrize("ops", [(1, 2), (2, 3)])
def test_a_convolution_or_a_pooling_alone_comes_back_unchanged(ops):
    assert not Graph(*ops).is_optimized()


def test_a_file_without_reshapes_takes_any_batch_as_it_is():
    assert layout.any_batch(PLAIN.read_bytes()) == PLAIN.read_bytes()


def test_the_published_file_is_the_plain_one_optimized():
    published = (PLAIN.parents[1] / "lenet5_int8.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(PLAIN.read_bytes(), 0)
    model.metadata.pop()  # of the plain file itself, as its last buffer
    model.buffers.pop()
    optimized = layout.optimize(metadata_writer.pack(model))
    described, files = metadata.read(published), metadata_writer.files(published)
    assert metadata_writer.attach(optimized, described, files) == published
