"""Generated C against LiteRT's reference kernels: every output, op by op and as a whole."""

import copy
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import PIPELINES, keras_lenet
from small_nets import RELU, RELU6, SAME, TANH, Net, edited, pictures, reference

from keras_lenet.deploy import arithmetic, c, footprint, lowering
from keras_lenet.errors import Error

EXPORTED = PIPELINES.parent / "exported"
REFERENCE = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"
STRICT = (*footprint.STRICT, "-Werror=overflow")
SOURCES = (
    "lenet5.c", "lenet5.h", "lenet5_test.c", "Makefile", "lenet5_example/lenet5_example.ino",
)  # fmt: skip
WATCHED = ("-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def run(*command, cwd=None, text=True, **options):
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, check=False, text=text, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def answers(models, images, target, thresholds=None):
    """Generate C of every model, compile all at once, and run it.

    Returns:
        For each model its class, int8 (N,), its logits and its probabilities, int8 (2, N, 10).
    """
    names = [f"net{number}" for number in range(len(models))]
    thresholds = thresholds or [0.0] * len(models)
    for name, model, threshold in zip(names, models, thresholds, strict=True):
        for file, text in c.emit(name, "a test", lowering.read(model), threshold).items():
            (target / file).write_text(text)
    calls = "".join(
        f"found[0] = (int8_t){name}_classify(image);\n{name}_logits(image, found + 1);\n"
        f"{name}_probabilities(image, found + 11);\nfwrite(found, 21, 1, stdout);\n"
        for name in names
    )
    (target / "main.c").write_text(
        "#include <stdio.h>\n"
        + "".join(f'#include "{name}.h"\n' for name in names)
        + "static uint8_t image[784];\nstatic int8_t found[21];\nint main(void)\n{\n"
        + f"while (fread(image, sizeof image, 1, stdin) == 1) {{\n{calls}}}\nreturn 0;\n}}\n"
    )
    files = ["main.c", *(f"{name}.c" for name in names)]
    run("gcc", *STRICT, *WATCHED, "-o", "nets", *files, cwd=target)
    printed = run("./nets", cwd=target, text=False, input=images.tobytes(), timeout=300)
    found = np.frombuffer(printed, np.int8).reshape(len(images), len(models), 21)
    return [
        (row[:, 0], row[:, 1:].reshape(-1, 2, 10).swapaxes(0, 1)) for row in found.swapaxes(0, 1)
    ]


def weights(*shape, most=127):
    return np.random.default_rng(sum(shape)).integers(-most, most + 1, shape).astype(np.int8)


def biases(count, most=3000):
    return np.random.default_rng(count).integers(-most, most + 1, count).astype(np.int32)


def filters(out, *shape):
    return weights(out, *shape), biases(out)


def small(channels=0):
    """Begin a net with the greatest of each 4×4 pixels, and mix them to channels."""
    net = Net().pool("MAX", (4, 4), (4, 4))
    return net.conv(*filters(channels, 1, 1, 1), 1 / 90, 1 / 200, -20) if channels else net


def five_by_five():
    """Begin a net with a convolution of the image to 24×24."""
    return Net().conv(*filters(3, 5, 5, 1), 0.01, 0.02, 2)


def rescaled(channels):
    """Begin a net whose scale and zero point are not the image's."""
    return small(channels).quantize(1 / 100, -40)


SCALES = np.linspace(0.002, 0.03, 5)  # of five output channels
NETS = {
    # FULLY_CONNECTED rounds once: factors that are short binary fractions have ties.
    "dense": Net().dense(weights(10, 784, most=3), biases(10), 1 / 8, 1 / 255, 3),
    "dense of four scales": small()
    .dense(*filters(4, 49), SCALES[:4], 0.01, -5, RELU)
    .dense(*filters(10, 4), np.linspace(0.001, 0.05, 10), 0.03),
    "dense without bias": small().dense(weights(10, 49), None, 0.005, 0.02, 7),
    # CONV_2D rounds twice.
    "of channels": rescaled(3).conv(
        *filters(5, 2, 2, 3), SCALES, 0.01, 11, (2, 1), activation=RELU6
    ),
    "factors far below 1": small().conv(
        weights(4, 5, 5, 1), biases(4, 10**6), 2.0 ** -np.arange(12, 16), 1 / 64
    ),
    "padded": rescaled(2).conv(*filters(5, 3, 2, 2), SCALES, 0.01, -3, (1, 2), SAME, RELU6),
    "image, padded": Net().conv(*filters(2, 6, 5, 1), 0.01, 0.02, 0, (3, 4), SAME),
    # A maximum after a convolution may be taken of its sums.
    "maximum of 2x2, strided": Net()
    .conv(*filters(7, 3, 5, 1), 0.01, 0.02, -9, (2, 3))
    .pool("MAX", (2, 2), activation=RELU6),
    "maximum of 1x2": small(5)
    .conv(*filters(4, 3, 2, 5), 0.01, 0.05, 1, (1, 2))
    .pool("MAX", (1, 2)),
    "maximum of 3x3": small(2).conv(*filters(3, 2, 2, 2), 0.01, 0.02).pool("MAX", (3, 3)),
    "overlapping maxima": small(2)
    .conv(*filters(3, 2, 2, 2), 0.01, 0.02)
    .pool("MAX", (2, 2), (1, 2)),
    "maximum, maximum and mean": five_by_five()
    .pool("MAX", (2, 2))
    .pool("MAX", (2, 2))
    .pool("AVERAGE", (2, 2)),
    "maximum of the image": Net().pool("MAX", (3, 2), (2, 3)),
    "mean of the image": Net().pool("AVERAGE", (3, 2), (2, 3), activation=RELU6),
    "depthwise, padded, then a maximum": rescaled(5)
    .depthwise(weights(1, 3, 2, 5), None, SCALES * 10, 0.05, 2, (2, 2), SAME)
    .pool("MAX", (2, 2)),
    "depthwise of the image": Net().depthwise(*filters(1, 3, 2, 1), 0.01, 0.02, -9, (2, 3)),
    "tanh of the image": Net().quantize(1 / 30, -60).tanh(1 / 100, -5),
    "tanh first": Net().tanh(),
    "quantize, coarser": small(3).quantize(1 / 20, 99),
    "padding": small(3).pad([(0, 0), (0, 2), (3, 1), (0, 0)]),
    "padding of the image": Net().pad([(0, 0), (2, 3), (1, 0), (0, 0)]),
    "reshape": small(4).reshape(1, 14, 7, 2).pool("MAX", (2, 1)),
    "resize up": Net().resize(32, 33),
    "resize down": Net().resize(9, 13),
    # 28 · 120 · 20 is more than 16 bits hold.
    "resize of 120 channels": Net()
    .conv(*filters(120, 1, 1, 1), 1 / 90, 1 / 200)
    .resize(32, 32)
    .pool("MAX", (1, 1), (8, 6)),
    "logits of a usual scale": small().dense(weights(10, 49), None, 0.005, 0.3),
    "logits far apart": small().dense(weights(10, 49), None, 1.0, 40.0),
    "logits close together": small().dense(weights(10, 49), None, 0.005, 1e-3),
    "greatest of the logits several times": small().dense(weights(10, 49), None, 9.0, 2.0),
}
"""Nets from an image to ten logits, one op or more each."""
BETAS = {"logits of a usual scale": 0.3}


@pytest.fixture
def saved(tmp_path):
    """Save a net with a softmax at its end; ten of its values are the logits."""

    def save(net, name="test", beta=1.0):
        net = copy.deepcopy(net)
        net = net if net.shape == (1, 10) else net.ten()
        return net.softmax(beta).save(tmp_path / f"{name}.tflite")

    return save


@pytest.mark.needs("gcc")
def test_every_op_answers_as_the_reference_kernels(saved, tmp_path):
    models = [
        saved(net, str(number), BETAS.get(name, 1.0))
        for number, (name, net) in enumerate(NETS.items())
    ]
    images, wrong = pictures(40), []
    found = answers(models, images, tmp_path)
    for name, model, (_, outputs) in zip(NETS, models, found, strict=True):
        truth = reference(model, images)
        if not np.array_equal(outputs, truth):
            wrong.append(f"{name}: {(outputs != truth).sum()} outputs")
        if len(np.unique(truth[0])) < 5:
            wrong.append(f"{name}: saturated logits prove nothing")
    assert wrong == []


@pytest.mark.needs("gcc")
def test_classify_returns_minus_one_below_the_threshold(saved, tmp_path):
    """Ten equal logits have 26/256 each; one that is 3 greater has 177/256."""
    zeros = np.zeros((10, 784), np.int8)
    ahead = np.where(np.arange(10) == 4, 3 * 255, 0)  # in units of 1 / 255
    level, four = (
        saved(Net().dense(zeros, bias, 1.0, 1 / 8, 0), name)
        for name, bias in (("level", 0 * ahead), ("four", ahead))
    )
    cases = [
        (level, 0.0, 0), (level, 26 / 256, 0), (level, 26.5 / 256, -1), (level, 27 / 256, -1),
        (four, 177 / 256, 4), (four, 178 / 256, -1), (four, 1.0, -1),
    ]  # fmt: skip
    models, thresholds, expected = zip(*cases, strict=True)
    blank = np.zeros((1, 28, 28), np.uint8)
    found = answers(models, blank, tmp_path, thresholds)
    assert [int(outputs[1].max()) + 128 for _, outputs in found] == [26] * 4 + [177] * 3
    assert tuple(int(classes[0]) for classes, _ in found) == expected


# The folder.


@pytest.fixture(scope="module")
def exported_c(tmp_path_factory):
    """The folder of the reference model's C; not to be changed."""
    target = tmp_path_factory.mktemp("c")
    c.write(REFERENCE, target)
    return target


@pytest.fixture
def generated(exported_c, tmp_path):
    shutil.copytree(exported_c, tmp_path / "c")
    return tmp_path / "c"


def test_published_c_is_generated_from_the_published_file(exported_c):
    for name in SOURCES:
        assert (exported_c / name).read_bytes() == (EXPORTED / "c" / name).read_bytes()
    text = (exported_c / "lenet5.c").read_text() + (exported_c / "lenet5.h").read_text()
    for word in ("float", "double", "malloc", "math.h", "string.h", "stdio.h"):
        assert word not in text
    assert "#define LENET5_THRESHOLD (34)\n" in text  # 162 - 128
    for credit in ("Optical Recognition of Handwritten Digits", "Alpaydin", "CC BY 4.0"):
        assert credit in (exported_c / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.needs("gcc")
@pytest.mark.parametrize("target", ["test", "sanitize"])
def test_make_passes_without_a_warning(target, generated):
    assert run("make", "-s", target, "CC=gcc", cwd=generated) == (
        "PASS: 16 images, every output as TensorFlow Lite has it\n"
    )


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("text", "change", "start", "end"),
    [
        ("_bias[6] = {\n    ", "_bias[6] = {\n    100000 + ", "FAIL: a 0: output ", "\n"),
        ("greatest < LENET5_THRESHOLD", "greatest < -128", "FAIL: ", ": expected the class -1\n"),
    ],
)
def test_make_fails_for_a_changed_network(text, change, start, end, generated):
    file = generated / "lenet5.c"
    assert file.read_text().count(text) == 1
    file.write_text(file.read_text().replace(text, change))
    result = subprocess.run(
        ["make", "-s", "CC=gcc", "CFLAGS=-O0"], cwd=generated, capture_output=True, text=True
    )
    assert result.stdout.startswith(start)
    assert result.stdout.endswith(end)
    assert result.returncode != 0


@pytest.mark.needs("g++", "gcc")
def test_sketch_compiles(generated):
    sketch = generated / "lenet5_example" / "lenet5_example.ino"
    stub = """
        #include <cstddef>
        struct { void begin(long) {} size_t readBytes(char *, size_t n) { return n; }
                 void println(int) {} } Serial;
    """
    (generated / "sketch.cc").write_text(stub + sketch.read_text() + "int main() { setup(); }")
    run("gcc", *STRICT, "-c", "lenet5.c", cwd=generated)
    run("g++", "-Wall", "-Wextra", "-Werror", "sketch.cc", "lenet5.o", "-o", "s", cwd=generated)


@pytest.mark.parametrize(
    "core",
    [
        pytest.param(None, marks=pytest.mark.needs("gcc"), id="this machine"),
        *(
            pytest.param(
                core, marks=pytest.mark.needs(footprint.COMPILER, footprint.EMULATOR), id=core
            )
            for core in footprint.CORES
        ),
    ],
)
def test_processors_answer_as_the_reference_kernels(core, exported_c, tmp_path):
    images = pictures(60)
    (tmp_path / "images").write_bytes(images.tobytes())
    sources, program = [exported_c / "lenet5_test.c", exported_c / "lenet5.c"], tmp_path / "test"
    if core:
        footprint.build(core, sources, program)
        test, read = (
            footprint.emulated(core, program, *names) for names in ((), ("images", "answers"))
        )
    else:
        run("gcc", *STRICT, "-O3", "-o", program, *sources)
        test, read = [program], [program, "images", "answers"]
    assert run(*test).startswith("PASS: 16 images")
    run(*read, cwd=tmp_path)
    found = np.fromfile(tmp_path / "answers", np.int8).reshape(60, 2, 10).swapaxes(0, 1)
    np.testing.assert_array_equal(found, reference(REFERENCE, images))


@pytest.mark.slow
def test_command_writes_the_folder_or_explains_in_a_line(exported_c, tmp_path):
    result = keras_lenet("export-c", REFERENCE, "-o", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    for name in (*SOURCES, "README.md"):
        assert (tmp_path / "c" / name).read_bytes() == (exported_c / name).read_bytes()
    model, target = tmp_path / "half.tflite", tmp_path / "out"
    model.write_bytes(REFERENCE.read_bytes()[:20_000])
    result = keras_lenet("export-c", model, "-o", target)
    assert result.returncode == 1
    assert not target.exists()
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("keras-lenet: ")]
    assert "half.tflite: damaged" in line


def test_names_are_identifiers_and_no_compiler_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    for stem, name in (("My-net 2", "my_net_2"), ("5_int8_plain", "model_5"), ("größe", "gr__e")):
        shutil.copyfile(REFERENCE, tmp_path / f"{stem}.tflite")
        c.write(tmp_path / f"{stem}.tflite", tmp_path / name)
        assert f"int {name}_classify(" in (tmp_path / name / f"{name}.c").read_text()
        page = (tmp_path / name / "README.md").read_text()
        assert "Not measured: arm-none-eabi-gcc was not installed." in page


@pytest.mark.needs(footprint.COMPILER, footprint.EMULATOR)
def test_page_states_the_footprint_on_a_cortex_m4(exported_c):
    flash, memory, stack = footprint.memory(exported_c, "lenet5")
    assert 62_000 <= flash <= 72_000  # 61,706 weights
    assert memory + stack <= 8_000
    assert f"#define LENET5_SCRATCH_BYTES {memory}\n" in (exported_c / "lenet5.h").read_text()
    page = (exported_c / "README.md").read_text()
    for size in (flash, memory, stack):
        assert f"| {size:,} bytes |" in page
    counts = re.findall(r"instructions an image, Cortex-M. at -O2 \| ([\d,]+) \|", page)
    # 416,520 multiply-accumulates, each with a load or two, and the loops around them.
    assert [900_000 < int(count.replace(",", "")) < 1_600_000 for count in counts] == [True, True]


def test_a_failing_compiler_is_named_on_the_page(monkeypatch):
    monkeypatch.setattr(footprint, "COMPILER", "false")
    assert footprint.of_c("net", {}) == "Not measured: false failed: status 1"


# Refused files.


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_file_that_is_not_int8_is_refused(dtype, tmp_path):
    model = EXPORTED / f"lenet5_{dtype}.tflite"
    with pytest.raises(Error, match=f"expected an int8 file, found {dtype}"):
        c.write(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def branch(content, graph):
    graph.operators[1].inputs = graph.operators[0].inputs


def end_early(content, graph):
    """Let the last op compute what nothing reads."""
    graph.tensors.append(copy.deepcopy(graph.tensors[graph.outputs[0]]))
    graph.operators.append(copy.deepcopy(graph.operators[-1]))
    graph.operators[-1].inputs = graph.outputs
    graph.operators[-1].outputs = [len(graph.tensors) - 1]


def remove_softmax(content, graph):
    graph.outputs = [graph.operators.pop().inputs[0]]


def remove_options(content, graph):
    graph.operators[0].builtinOptions, graph.operators[0].builtinOptionsType = None, 0


def widen(content, graph):
    tensor = graph.tensors[graph.operators[0].outputs[0]]
    tensor.type, tensor.quantization.zeroPoint = schema.TensorType.INT16, [0]


def quantized(position, scales, zeros):
    """Return an edit of the quantization of one of the first op's inputs."""

    def edit(content, graph):
        quantization = graph.tensors[graph.operators[0].inputs[position]].quantization
        quantization.scale, quantization.zeroPoint = scales, zeros

    return edit


CONV, VECTOR = Net().conv(weights(6, 3, 3, 1)), Net().dense(weights(10, 784, most=1))
TANHS, FINER = Net().tanh(1 / 255, -128).tanh(1 / 255, -128), Net().quantize(1 / 300, 0)
FLAT = small().reshape(1, 49)
COLUMN = small().pool("MAX", (1, 1), (7, 1)).pad([(0, 0), (0, 0), (0, 3), (0, 0)])
REFUSED = [
    ("CONV_2D: no C is generated for dilation", Net().conv(weights(2, 2, 2, 1), dilation=(2, 1))),
    ("MAX_POOL_2D: no C is generated for SAME", Net().pool("MAX", (3, 3), padding=SAME)),
    ("for its fused activation (4)", Net().conv(weights(2, 2, 2, 1), activation=TANH)),
    ("DEPTHWISE_CONV_2D: no C is generated for groups", Net().depthwise(weights(1, 2, 2, 3))),
    ("expected half-pixel centres and", Net().pool("MAX", (28, 1), (1, 1)).resize(3, 5)),
    ("expected half-pixel centres and", Net().pool("MAX", (1, 28), (1, 1)).resize(3, 5)),
    ("expected half-pixel centres and", Net().resize(32, 32, half=False)),
    ("found [[0, 0], [0, 0], [0, 0], [1, 0]]", Net().pad([(0, 0), (0, 0), (0, 0), (1, 0)])),
    ("rows and columns around an image", Net().reshape(1, 784).pad([(0, 0), (0, 1)])),
    ("its sums can exceed 32 bits", Net().dense(weights(10, 784), np.full(10, 2**31 - 1))),
    ("its output is finer", small().conv(weights(4, 1, 2, 1), None, [0.1, 0.9, 2, 3.7], 1 / 255)),
    (
        "no C is generated for LOGISTIC; there is for AVERAGE_POOL_2D, CONV_2D",
        small().op("LOGISTIC", (1, 7, 7, 1), 1 / 256, -128),
    ),
    (
        "FULLY_CONNECTED: input 1 is computed, expected a constant",
        FLAT.op("FULLY_CONNECTED", (1, 1), None, None, [FLAT.flowing], "FullyConnectedOptions"),
    ),
    ("expected one image's activations, found shape (49, 1)", small().reshape(49, 1).tanh()),
    ("found shape (1, 7, 7, 1, 1)", small().reshape(1, 7, 7, 1, 1).tanh().reshape(1, 49)),
    ("TANH: expected a chain of ops, found a branch", TANHS, branch),
    ("expected a chain of ops, found a branch", VECTOR, end_early),
    ("expected one SOFTMAX, at the end", VECTOR, remove_softmax),
    ("expected one SOFTMAX, at the end", Net().ten().softmax().quantize(1 / 256, -128)),
    ("SOFTMAX: expected one vector, found (1, 1, 10, 1)", COLUMN.softmax().reshape(1, 10)),
    ("QUANTIZE: tensor 1 is int16, not int8", FINER.quantize(1 / 255, 0), widen),
    ("damaged .tflite file, or of a newer schema", VECTOR, remove_options),
    ("damaged", CONV, quantized(1, [1.0] * 5, [0] * 5)),
    ("expected int8 weights with zero point 0", VECTOR, quantized(1, [1.0], [3])),
    ("expected the input pixel - 128", CONV, quantized(0, [1 / 127], [-128])),
    ("expected the input pixel - 128", CONV, quantized(0, [1 / 255], [-127])),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_an_unsupported_model_is_refused_with_its_reason(case, saved):
    reason, net, *edits = case
    model = saved(net)
    for edit in edits:
        edited(model, edit)
    with pytest.raises(Error) as caught:
        lowering.read(model)
    assert str(caught.value).startswith(f"{model}: ")
    assert reason in str(caught.value)


def test_the_greatest_sum_of_32_bits_is_taken_and_one_more_is_refused(saved):
    """One weight of 1, an input of zero point -128: the bias grows by 128, the sum by 128 more."""
    one = np.ones((1, 1, 1, 1), np.int8)
    lowering.read(saved(Net().conv(one, np.array([2**31 - 1 - 256]), 1e-9)))
    with pytest.raises(Error, match="its sums can exceed 32 bits"):
        lowering.read(saved(Net().conv(one, np.array([2**31 - 256]), 1e-9)))


# Integer arithmetic by hand.


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.0, (0, 0)), (0.5, (2**30, 0)), (1.0, (2**30, 1)), (3.0, (3 << 29, 2)),
        (0.75 + 2**-32, ((3 << 29) + 1, 0)),  # a tie rounds up
        (0.75 + 2**-33, (3 << 29, 0)),
        (1 - 2**-40, (2**30, 1)),  # rounds to 2^31, which is no int32
        (2**-32, (2**30, -31)), (2**-33, (0, 0)),
    ],
)  # fmt: skip
def test_multiplier_and_shift_of_known_factors(factor, expected):
    assert arithmetic.quantize_multiplier(factor) == expected


def test_single_rounding_is_that_of_a_float64_product():
    """Ties too: of factors that are short binary fractions, and that take a sum to half a step."""
    generator = np.random.default_rng(0)
    halves = (generator.integers(1, 128, 50) - 0.5) / generator.integers(40_000, 70_000, 50)
    sums = np.arange(-70_000, 70_001)
    for factor in (2**-7, 3 * 2**-9, *halves):
        multiplier, shift = arithmetic.single_rounding(float(factor), -128, 127, 70_000)
        real = sums * factor
        wanted = np.copysign(np.floor(np.abs(real) + 0.5), real)
        found = (sums * multiplier + (1 << (30 - shift)) - (sums < 0)) >> (31 - shift)
        np.testing.assert_array_equal(np.clip(found, -128, 127), np.clip(wanted, -128, 127))


def test_a_factor_that_no_multiplier_has_is_refused():
    """Sums of 40 bits tell factors apart that multipliers of 31 bits do not."""
    with pytest.raises(Error, match="no multiplier of 31 bits rounds as the factor"):
        arithmetic.single_rounding(math.pi / 3 * 2**-33, -128, 127, 2**45)
