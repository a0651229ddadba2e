"""Generated C against LiteRT's reference kernels: every output byte, op by op and as a whole."""

import ctypes
import itertools
import shutil
import subprocess

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import PIPELINES, keras_lenet

from keras_lenet import streams
from keras_lenet.data import datasets
from keras_lenet.edge import inspection
from keras_lenet.edge.c import arithmetic, folder, graph, measure, source
from keras_lenet.errors import Error

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


def run(*command, cwd=None):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def answers(model, images, target, flags=("-O2",)):
    """Generate, compile and run: logits and probabilities, int8 (N, 10) each."""
    target.mkdir(exist_ok=True)
    network = graph.read(model)
    (target / "net.h").write_text(source.header("net", "a test", network))
    (target / "net.c").write_text(source.source("net", "a test", network))
    run("gcc", *measure.STRICT, *flags, "-fPIC", "-shared", "-o", "net.so", "net.c", cwd=target)
    library = ctypes.CDLL(str(target / "net.so"))
    found = np.empty((2, len(images), 10), np.int8)
    images = np.ascontiguousarray(images)
    for function, rows in zip((library.net_logits, library.net_probabilities), found, strict=True):
        for image, row in zip(images, rows, strict=True):
            function(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(row.ctypes.data))
    return found


def expected(model, images):
    """What the reference kernels give: what goes into the softmax, and what comes out."""
    interpreter = Interpreter(
        model_path=str(model),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, [len(images), 28, 28, 1])
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, (images.astype(np.int16) - 128).astype(np.int8)[..., np.newaxis])
    interpreter.invoke()
    operator = interpreter._get_ops_details()[-1]
    assert operator["op_name"] == "SOFTMAX"
    return np.array(
        [interpreter.get_tensor(operator[end][0]).reshape(-1, 10) for end in ("inputs", "outputs")]
    )


def pictures(count, seed=0):
    """Random pixels: of every brightness, in blocks, and sparse; uint8 (count, 28, 28)."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (count, 28, 28))
    noise[::3] = np.kron(generator.integers(0, 256, (len(noise[::3]), 7, 7)), np.ones((4, 4)))
    noise[1::3] *= generator.random((len(noise[1::3]), 28, 28)) < 0.15
    return noise.astype(np.uint8)


@pytest.fixture
def convert(tmp_path):
    """Make an int8 .tflite of a function from images to ten logits."""

    def converted(logits, per_channel=True):
        @tf.function(input_signature=[tf.TensorSpec((1, 28, 28, 1), tf.float32)])
        def network(image):
            return tf.nn.softmax(logits(image))

        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [network.get_concrete_function()], tf.Module()
        )
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        images = (pictures(30, 9)[:, np.newaxis, :, :, np.newaxis] / 255).astype(np.float32)
        images[0, 0, 0, :2, 0] = 0, 1  # the whole range
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        if not per_channel:
            converter._experimental_disable_per_channel = True
            converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        with streams.without_information():
            content = converter.convert()
        path = tmp_path / "test.tflite"
        path.write_bytes(content)
        return path

    return converted


def weights(*shape):
    generator = np.random.default_rng(sum(shape))
    scale = 1.5 / np.sqrt(np.prod(shape[:-1]))
    return tf.constant(generator.normal(0, scale, shape), tf.float32)


def dense(x):
    flat = tf.reshape(x, (1, -1))
    return flat @ weights(int(flat.shape[1]), 10) + weights(1, 10)[0]


def convolved(x, channels=6, size=5, stride=1, padding="VALID"):
    filters = weights(size, size, int(x.shape[3]), channels)
    return tf.nn.bias_add(tf.nn.conv2d(x, filters, stride, padding), weights(1, channels)[0])


def depthwise(x, size=2, stride=2, padding="VALID"):
    filters = weights(size, size, int(x.shape[3]), 1)
    strides = (1, stride, stride, 1)
    return tf.nn.bias_add(
        tf.nn.depthwise_conv2d(x, filters, strides, padding), weights(1, int(x.shape[3]))[0]
    )


def maximum(x, size=2, stride=2, padding="VALID"):
    return tf.nn.max_pool2d(x, size, stride, padding)


def mean(x, size=2, stride=2, padding="VALID"):
    return tf.nn.avg_pool2d(x, size, stride, padding)


NETWORKS = {
    "dense": dense,
    "convolution and maximum": lambda x: dense(maximum(tf.nn.relu(convolved(x)))),
    "an odd number of channels": lambda x: dense(maximum(tf.nn.relu(convolved(x, 7, 3)))),
    "two maxima of 3": lambda x: dense(maximum(convolved(maximum(convolved(x), 3, 3), 5, 3), 3, 3)),
    "overlapping maxima": lambda x: dense(maximum(convolved(x, 3, 3), 3, 2, "SAME")),
    "padded strides": lambda x: dense(tf.nn.relu6(convolved(x, 8, 4, 3, "SAME"))),
    "depthwise": lambda x: dense(tf.tanh(depthwise(convolved(x, 6, 3)))),
    "depthwise, padded, then a maximum": lambda x: dense(
        maximum(tf.nn.relu(depthwise(convolved(x, 5, 4, 2), 3, 1, "SAME")))
    ),
    "means": lambda x: dense(mean(tf.nn.relu(convolved(x, 4, 3)))),
    "padded means": lambda x: dense(mean(convolved(x, 4, 3), 3, 2, "SAME")),
    "a mean of the image": lambda x: dense(mean(x, 3, 3, "SAME")),
    "a maximum of the image": lambda x: dense(maximum(x, 4, 4)),
    "tanh": lambda x: dense(mean(tf.tanh(3 * convolved(x, 4, 5)))),
    "tanh of the image": lambda x: dense(tf.tanh(x)),
    "padding": lambda x: dense(convolved(tf.pad(x, [[0, 0], [2, 3], [1, 0], [0, 0]]), 4, 5, 4)),
    "between -1 and 1": lambda x: dense(tf.clip_by_value(convolved(x, 4, 5), -1.0, 1.0)),
    "resize up": lambda x: dense(
        tf.raw_ops.ResizeBilinear(images=x, size=(32, 32), half_pixel_centers=True)
    ),
    "resize of channels": lambda x: dense(
        tf.raw_ops.ResizeBilinear(
            images=convolved(x, 3, 3, 2), size=(9, 20), half_pixel_centers=True
        )
    ),
    "resize, corners aligned": lambda x: dense(
        tf.raw_ops.ResizeBilinear(images=x, size=(17, 40), align_corners=True)
    ),
    "resize, neither": lambda x: dense(tf.raw_ops.ResizeBilinear(images=x, size=(20, 45))),
}


def agrees(model, target, count=300, flags=("-O2",)):
    images = pictures(count)
    truth = expected(model, images)
    assert len(np.unique(truth[0])) > 20  # saturated logits would prove nothing
    np.testing.assert_array_equal(answers(model, images, target, flags), truth)


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_every_op_answers_as_the_reference_kernels(name, convert, tmp_path):
    flags = ("-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
    agrees(convert(NETWORKS[name]), tmp_path, flags=flags)


@needs_compiler
def test_quantized_again(convert, tmp_path):
    def logits(x):
        wide = tf.quantization.fake_quant_with_min_max_args(convolved(x, 4, 5), -4, 4)
        return dense(tf.quantization.fake_quant_with_min_max_args(maximum(wide, 3), -0.9, 2.7))

    model = convert(logits)
    assert "QUANTIZE" in [op.name for op in inspection.inspect(model).ops]
    agrees(model, tmp_path)


@needs_compiler
def test_weights_with_one_scale_per_tensor(convert, tmp_path):
    model = convert(NETWORKS["convolution and maximum"], per_channel=False)
    for layer in graph.read(model).layers:
        if isinstance(layer, graph.Convolution):
            assert len(np.unique(layer.multipliers)) == 1
    agrees(model, tmp_path)


def edited(model, change):
    """Write the model again, its flatbuffer's objects changed."""
    content = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    change(content, content.subgraphs[0])
    builder = flatbuffers.Builder(0)
    builder.Finish(content.Pack(builder), b"TFL3")
    model.write_bytes(bytes(builder.Output()))
    return model


@needs_compiler
@pytest.mark.parametrize("factor", [2**-3, 2**-9, 2**-14, 2**6])
def test_factors_above_and_far_below_1(factor, convert, tmp_path):
    """Outputs that are finer or coarser than sums: shifts to the left, and far to the right."""

    def rescale(content, graph):
        for operator in graph.operators:
            name = inspection.op_name(content.operatorCodes[operator.opcodeIndex])
            if name in ("CONV_2D", "FULLY_CONNECTED"):
                quantization = graph.tensors[operator.outputs[0]].quantization
                quantization.scale = (np.array(quantization.scale) * factor).astype(np.float32)

    model = edited(convert(lambda x: dense(tf.nn.relu(convolved(x, 6, 5, 4)))), rescale)
    images = pictures(300)
    np.testing.assert_array_equal(answers(model, images, tmp_path), expected(model, images))
    shifts = np.concatenate([layer.shifts for layer in graph.read(model).layers[:-1]])
    assert (shifts > 0).all() == (factor == 2**-14)


@needs_compiler
@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.3, 2.0, 40.0])
def test_softmax_of_logits_at_any_scale(scale, convert, tmp_path):
    def rescale(content, graph):
        operator = graph.operators[-1]
        graph.tensors[operator.inputs[0]].quantization.scale = np.array([scale], np.float32)

    model, images = edited(convert(dense), rescale), pictures(600)
    np.testing.assert_array_equal(answers(model, images, tmp_path), expected(model, images))


@pytest.fixture
def smoke(finished):
    return finished.folder / "export" / "microcontroller" / "lenet5_int8.tflite"


@needs_compiler
@pytest.mark.parametrize("flags", ["-O0", "-O3"])
def test_a_trained_network_answers_as_the_reference_kernels(smoke, flags, tmp_path):
    agrees(smoke, tmp_path, 1500, (flags,))


@needs_compiler
@pytest.mark.mnist
def test_the_reference_model_on_the_test_set(mnist_dir, tmp_path):
    images = datasets.load("mnist", "test", mnist_dir).images
    model = PIPELINES.parent / "exported" / "microcontroller" / "lenet5_int8.tflite"
    found = answers(model, images, tmp_path, ("-O3",))
    np.testing.assert_array_equal(found, expected(model, images))


@pytest.fixture
def generated(finished, tmp_path):
    shutil.copytree(finished.folder / "export" / "c", tmp_path / "c")
    return tmp_path / "c"


@needs_compiler
@pytest.mark.parametrize("target", ["test", "sanitize"])
def test_the_folder_builds_without_a_warning_and_passes(generated, target):
    assert run("make", "-s", target, "CC=gcc", cwd=generated) == (
        "PASS: 16 images, every output as TensorFlow Lite has it\n"
    )


@needs_compiler
def test_a_changed_weight_fails(generated):
    file = generated / "lenet5.c"
    text = file.read_text()
    place = text.index("_bias[")
    changed = text[:place] + text[place:].replace("{\n    ", "{\n    100000 + ", 1)
    file.write_text(changed)
    result = subprocess.run(
        ["make", "-s", "CC=gcc"], cwd=generated, capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("FAIL: a 0: ")
    assert result.returncode != 0


@needs_compiler
def test_the_test_program_answers_files(generated, smoke):
    images = pictures(20)
    (generated / "images").write_bytes(images.tobytes())
    run("make", "-s", "lenet5_test", "CC=gcc", cwd=generated)
    run("./lenet5_test", "images", "answers", cwd=generated)
    found = np.fromfile(generated / "answers", np.int8).reshape(20, 2, 10).swapaxes(0, 1)
    np.testing.assert_array_equal(found, expected(smoke, images))


def test_there_is_nothing_but_integers_and_no_library(generated):
    text = (generated / "lenet5.c").read_text() + (generated / "lenet5.h").read_text()
    for word in ("float", "double", "malloc", "math.h", "string.h", "stdio.h"):
        assert word not in text


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_the_sketch_compiles(generated):
    sketch = generated / "lenet5_example" / "lenet5_example.ino"
    stub = """
        #include <cstddef>
        struct { void begin(long) {} size_t readBytes(char *, size_t n) { return n; }
                 void println(int) {} } Serial;
    """
    (generated / "sketch.cc").write_text(stub + sketch.read_text() + "int main() { setup(); }")
    run("gcc", "-c", "lenet5.c", cwd=generated)
    run("g++", "-Wall", "-Wextra", "-Werror", "sketch.cc", "lenet5.o", "-o", "s", cwd=generated)


def needs(target):
    missing = target.missing
    return pytest.mark.skipif(missing is not None, reason=f"{missing} is not installed")


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=needs(t), id=t.name) for t in measure.TARGETS]
)
def test_emulated_processors_answer_the_same(target, generated, smoke, tmp_path):
    images = pictures(60)
    (tmp_path / "images").write_bytes(images.tobytes())
    sources = [generated / "lenet5_test.c", generated / "lenet5.c"]
    measure.build(target, sources, tmp_path / "test")
    assert run(*measure.emulated(target, tmp_path / "test")).startswith("PASS: 16 images")
    run(*measure.emulated(target, tmp_path / "test", "images", "answers"), cwd=tmp_path)
    found = np.fromfile(tmp_path / "answers", np.int8).reshape(60, 2, 10).swapaxes(0, 1)
    np.testing.assert_array_equal(found, expected(smoke, images))


@needs(measure.M4)
def test_what_it_takes_of_a_cortex_m4(generated):
    flash, memory, stack = measure.footprint(generated, "lenet5")
    assert flash <= 72_000
    assert memory + stack <= 8_000
    assert f"#define LENET5_SCRATCH_BYTES {memory}\n" in (generated / "lenet5.h").read_text()
    page = (generated / "README.md").read_text()
    assert f"| {flash:,} bytes |" in page
    assert f"| {memory:,} bytes |" in page
    assert "instructions an image, Cortex-M4" in page


def test_without_a_compiler_the_page_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert measure.measure("net", "", "") == "Not measured: arm-none-eabi-gcc was not installed."


def test_a_compiler_without_its_library_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(measure, "M4", measure.Target("M4", ("false", "-O2"), ("false",), True))
    assert measure.measure("net", "", "") == "Not measured: false failed: status 1"


def refused(model, tmp_path):
    """Export C from a command line; nothing may be written. Returns the line that says why."""
    target = tmp_path / "out"
    result = keras_lenet("export-c", model, "-o", target)
    assert result.returncode == 1
    assert not target.exists()
    lines = [line for line in result.stderr.splitlines() if line.startswith("keras-lenet: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_float_file_is_refused(finished, tmp_path):
    model = finished.folder / "export" / "lenet5_float32.tflite"
    assert "C is generated from an int8 file, this one is float32" in refused(model, tmp_path)


def test_a_truncated_file_is_refused(smoke, tmp_path):
    model = tmp_path / "half.tflite"
    model.write_bytes(smoke.read_bytes()[:20_000])
    assert "half.tflite: damaged" in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (lambda x: dense(tf.sigmoid(x)), "no C is generated for LOGISTIC; there is for AVERAGE"),
        (lambda x: dense(x + tf.tanh(x)), "TANH|ADD"),
        (
            lambda x: dense(tf.nn.conv2d(x, weights(3, 3, 1, 4), 1, "VALID", dilations=2)),
            "CONV_2D: no C is generated for dilation|SPACE_TO_BATCH_ND",
        ),
    ],
    ids=["an op", "a branch", "dilation"],
)
def test_what_is_not_supported_is_refused_by_name(logits, reason, convert):
    with pytest.raises(Error, match=reason):
        graph.read(convert(logits))


def test_a_file_without_softmax_is_refused(convert):
    def cut(content, graph):
        graph.outputs = [graph.operators[-1].inputs[0]]
        graph.operators.pop()

    with pytest.raises(Error, match="expected one SOFTMAX, at the end"):
        graph.read(edited(convert(dense), cut))


def test_another_input_is_refused(convert):
    def rescale(content, graph):
        graph.tensors[graph.inputs[0]].quantization.scale = np.array([1 / 127], np.float32)

    with pytest.raises(Error, match="its input isn't pixel - 128"):
        graph.read(edited(convert(dense), rescale))


def test_scales_per_channel_that_are_too_few_are_refused(convert):
    def cut(content, graph):
        for tensor in graph.tensors:
            if tensor.quantization.scale is not None and len(tensor.quantization.scale) == 6:
                tensor.quantization.scale = tensor.quantization.scale[:5]

    model = edited(convert(lambda x: dense(convolved(x))), cut)
    with pytest.raises(Error):
        graph.read(model)


def test_the_command_writes_the_folder(smoke, tmp_path):
    result = keras_lenet("export-c", smoke, "-o", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    for name in ("lenet5.c", "lenet5.h", "lenet5_test.c", "Makefile", "README.md"):
        assert (tmp_path / "c" / name).read_bytes() == (smoke.parents[1] / "c" / name).read_bytes()


def test_names_are_identifiers(tmp_path):
    names = {"lenet5_int8": "lenet5", "My-net 2": "my_net_2", "5": "model_5", "größe": "gr__e"}
    for stem, name in names.items():
        assert folder.identifier(tmp_path / f"{stem}.tflite") == name


def test_multipliers_of_known_factors():
    assert arithmetic.quantize_multiplier(0.5) == (2**30, 0)
    assert arithmetic.quantize_multiplier(3.0) == (3 << 29, 2)
    assert arithmetic.quantize_multiplier(1 - 2**-40) == (2**30, 1)
    assert arithmetic.quantize_multiplier(2**-40) == (0, 0)


def test_one_rounding_is_that_of_a_float64_product():
    """Ties too: factors that are short binary fractions have them."""
    generator = np.random.default_rng(0)
    sums = np.arange(-70_000, 70_000)
    for factor in (2**-7, 3 * 2**-9, *np.exp(generator.uniform(-9, -3, 50))):
        multiplier, shift = arithmetic.once(float(factor), -128, 127, 70_000)
        real = sums * factor
        wanted = np.copysign(np.floor(np.abs(real) + 0.5), real)
        found = (sums * multiplier + (1 << (30 - shift)) - (sums < 0)) >> (31 - shift)
        np.testing.assert_array_equal(np.clip(found, -128, 127), np.clip(wanted, -128, 127))


def test_scratch_memory_never_overlaps(smoke):
    """Each layer's output lies clear of its input, inside the buffer."""
    network = graph.read(smoke)
    layout = source.plan(network)
    ends = [
        (place, place + int(np.prod(layer.target)))
        for place, layer in zip(layout.places, network.layers, strict=False)
    ]
    assert max(end for _, end in ends) <= layout.values
    for (start, end), (other, stop) in itertools.pairwise(ends):
        assert end <= other or stop <= start
