"""Generated C against LiteRT's reference kernels: every output, op by op and as a whole."""

import itertools
import math
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from conftest import PIPELINES, keras_lenet
from small_nets import (
    RELU,
    RELU6,
    RELU_N1_TO_1,
    SAME,
    TANH,
    VALID,
    Net,
    edited,
    reference,
)

from keras_lenet.data import catalogue, reading
from keras_lenet.deploy import footprint, tflm
from keras_lenet.deploy.c import arithmetic, bundle, emitter, lowering
from keras_lenet.errors import Error

EXPORTED = PIPELINES.parent / "exported"
REFERENCE = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"
STRICT = (*footprint.STRICT, "-Werror=overflow")
WATCHED = ("-O0", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def run(*command, cwd=None, text=True, **options):
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, check=False, text=text, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def answers(models, images, target, flags=WATCHED, thresholds=None):
    """Generate C of every model, compile all at once, and run it.

    Returns:
        For each model its class, int8 (N,), its logits and its probabilities, int8 (2, N, 10).
    """
    for number, model in enumerate(models):
        network = lowering.read(model)
        arguments = f"net{number}", "a test", network
        threshold = 0.0 if thresholds is None else thresholds[number]
        for name, text in emitter.emit(*arguments, threshold).items():
            (target / name).write_text(text)
    names = [f"net{number}" for number in range(len(models))]
    (target / "main.c").write_text(
        "#include <stdio.h>\n"
        + "".join(f'#include "{name}.h"\n' for name in names)
        + "static uint8_t image[784];\nstatic int8_t found[21];\nint main(void)\n{\n"
        + "while (fread(image, sizeof image, 1, stdin) == 1) {\n"
        + "".join(
            f"found[0] = (int8_t){name}_classify(image);\n{name}_logits(image, found + 1);\n"
            f"{name}_probabilities(image, found + 11);\nfwrite(found, 21, 1, stdout);\n"
            for name in names
        )
        + "}\nreturn 0;\n}\n"
    )
    files = ["main.c", *(f"{name}.c" for name in names)]
    run("gcc", *STRICT, *flags, "-o", "nets", *files, cwd=target)
    printed = run("./nets", cwd=target, text=False, input=images.tobytes(), timeout=300)
    found = np.frombuffer(printed, np.int8).reshape(len(images), len(models), 21)
    return [
        (row[:, 0], row[:, 1:].reshape(-1, 2, 10).swapaxes(0, 1)) for row in found.swapaxes(0, 1)
    ]


def pictures(count, seed=0):
    """Random pixels: of every brightness, in blocks, and sparse; uint8 (count, 28, 28)."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (count, 28, 28))
    noise[::3] = np.kron(generator.integers(0, 256, (len(noise[::3]), 7, 7)), np.ones((4, 4)))
    noise[1::3] *= generator.random((len(noise[1::3]), 28, 28)) < 0.15
    return noise.astype(np.uint8)


def weights(*shape, most=127):
    return np.random.default_rng(sum(shape)).integers(-most, most + 1, shape).astype(np.int8)


def biases(count, most=3000):
    return np.random.default_rng(count).integers(-most, most + 1, count).astype(np.int32)


def small(channels=0):
    """A net that begins with the greatest of each 4×4 pixels, and mixes them to channels."""
    net = Net().pool("MAX", (4, 4), (4, 4))
    if channels:
        net.conv(weights(channels, 1, 1, 1), biases(channels), 1 / 90, 1 / 200, -20)
    return net


def rescaled(net):
    """What follows sees a scale and a zero point that are not the image's."""
    return net.quantize(1 / 100, -40)


SCALES = np.linspace(0.002, 0.03, 5)  # of five output channels
NETS = {
    # FULLY_CONNECTED rounds once: factors that are short binary fractions have ties.
    "dense": lambda: Net().dense(weights(10, 784, most=3), biases(10), 1 / 8, 1 / 255, 3),
    "dense without bias": lambda: small().dense(weights(10, 49), None, 0.005, 0.02, 7),
    "dense of four scales": lambda: (
        small()
        .dense(weights(4, 49), biases(4), SCALES[:4], 0.01, -5, RELU)
        .dense(weights(10, 4), biases(10), np.linspace(0.001, 0.05, 10), 0.03)
    ),
    "dense, limited to 6": lambda: (
        small().dense(weights(12, 49), biases(12), 0.01, 0.03, -100, RELU6).ten()
    ),
    "dense, limited to 1": lambda: (
        small().dense(weights(12, 49), biases(12), 0.01, 0.01, 9, RELU_N1_TO_1).ten()
    ),
    # CONV_2D rounds twice.
    "convolution of the image": lambda: (
        Net().conv(weights(5, 3, 2, 1), biases(5), SCALES, 0.011, -7, (2, 3)).ten()
    ),
    "convolution without bias": lambda: (
        small().conv(weights(3, 2, 3, 1), None, 0.01, 0.02, 4, (1, 2)).ten()
    ),
    "convolution of channels": lambda: (
        small(3).conv(weights(5, 2, 2, 3), biases(5), SCALES, 0.004, 11, (2, 1), VALID, RELU).ten()
    ),
    "convolution, padded": lambda: (
        rescaled(small(2))
        .conv(weights(5, 3, 2, 2), biases(5), SCALES, 0.01, -3, (1, 2), SAME, RELU6)
        .ten()
    ),
    "convolution of the image, padded": lambda: (
        Net().conv(weights(2, 6, 5, 1), biases(2), 0.01, 0.02, 0, (3, 4), SAME).ten()
    ),
    "convolution, limited to 1": lambda: (
        small().conv(weights(3, 2, 2, 1), biases(3), 0.01, 1 / 60, 5, activation=RELU_N1_TO_1).ten()
    ),
    "convolution, factors on both sides of 1": lambda: (
        small()
        .conv(weights(4, 1, 2, 1, most=3), biases(4, 9), [0.1, 0.9, 2, 3.7], 1 / 255, 1)
        .ten()
    ),
    "convolution, factors far below 1": lambda: (
        small().conv(weights(4, 5, 5, 1), biases(4, 10**6), 2.0 ** -np.arange(12, 16), 1 / 64).ten()
    ),
    # A maximum after a convolution may be taken of its sums.
    "maximum of 2x2": lambda: (
        small(2)
        .conv(weights(6, 2, 2, 2), biases(6), 0.01, 0.02, -9, activation=RELU)
        .pool("MAX", (2, 2), (2, 2))
        .ten()
    ),
    "maximum of 2x2, strided": lambda: (
        Net()
        .conv(weights(7, 3, 5, 1), biases(7), 0.01, 0.02, -9, (2, 3))
        .pool("MAX", (2, 2), (2, 2), activation=RELU6)
        .ten()
    ),
    "maximum of 1x2": lambda: (
        small(5)
        .conv(weights(4, 3, 2, 5), biases(4), 0.01, 0.05, 1, (1, 2))
        .pool("MAX", (1, 2), (1, 2))
        .ten()
    ),
    "maximum of 3x1": lambda: (
        small(2)
        .conv(weights(9, 1, 2, 2), biases(9), 0.01, 0.03, 1)
        .pool("MAX", (3, 1), (3, 1))
        .ten()
    ),
    "maximum of 3x3": lambda: (
        small(2).conv(weights(3, 2, 2, 2), biases(3), 0.01, 0.02).pool("MAX", (3, 3), (3, 3)).ten()
    ),
    "overlapping maxima": lambda: (
        small(2).conv(weights(3, 2, 2, 2), biases(3), 0.01, 0.02).pool("MAX", (2, 2), (1, 2)).ten()
    ),
    "maxima over the edge": lambda: (
        small(2)
        .conv(weights(3, 1, 1, 2), biases(3), 0.01, 0.02)
        .pool("MAX", (2, 2), (2, 2), SAME)
        .ten()
    ),
    "maximum of a maximum": lambda: (
        Net()
        .conv(weights(3, 5, 5, 1), biases(3), 0.01, 0.02, 2)
        .pool("MAX", (2, 2), (2, 2))
        .pool("MAX", (2, 2), (2, 2))
        .ten()
    ),
    "maximum and mean": lambda: (
        Net()
        .conv(weights(3, 5, 5, 1), biases(3), 0.01, 0.02, 2)
        .pool("MAX", (2, 2), (2, 2))
        .pool("AVERAGE", (2, 2), (2, 2))
        .ten()
    ),
    "mean of a convolution": lambda: (
        small(2)
        .conv(weights(3, 1, 1, 2), biases(3), 0.01, 0.02)
        .pool("AVERAGE", (2, 2), (2, 2))
        .ten()
    ),
    "maximum of the image": lambda: Net().pool("MAX", (3, 2), (2, 3), SAME, RELU_N1_TO_1).ten(),
    "mean of the image": lambda: Net().pool("AVERAGE", (2, 2), (2, 2)).ten(),
    "mean over the edge": lambda: small(2).pool("AVERAGE", (3, 2), (2, 3), SAME, RELU6).ten(),
    "depthwise of the image": lambda: (
        Net().depthwise(weights(1, 3, 2, 1), biases(1), 0.01, 0.02, -9, (2, 3)).ten()
    ),
    "depthwise": lambda: (
        small(5)
        .depthwise(weights(1, 2, 3, 5), biases(5), SCALES, 0.01, 7, (1, 2), VALID, RELU)
        .ten()
    ),
    "depthwise, padded, then a maximum": lambda: (
        rescaled(small(5))
        .depthwise(weights(1, 3, 2, 5), None, SCALES * 40, 0.05, 2, (2, 2), SAME)
        .pool("MAX", (2, 2), (2, 2))
        .ten()
    ),
    "tanh": lambda: small(3).tanh().ten(),
    "tanh of the image": lambda: Net().quantize(1 / 30, -60).tanh(1 / 100, -5).ten(),
    "tanh first": lambda: Net().tanh().ten(),
    "quantize first": lambda: Net().quantize(1 / 300, 17).ten(),
    "quantize again": lambda: small(3).quantize(1 / 77, -50).ten(),
    "quantize, coarser": lambda: small(3).quantize(1 / 20, 99).ten(),
    "padding of the image": lambda: Net().pad([(0, 0), (2, 3), (1, 0), (0, 0)]).ten(),
    "padding": lambda: small(3).pad([(0, 0), (0, 2), (3, 1), (0, 0)]).ten(),
    "reshape": lambda: small(4).reshape(1, 14, 7, 2).pool("MAX", (2, 1), (2, 1)).ten(),
    "resize up": lambda: Net().resize(32, 33, half=True).ten(),
    "resize down": lambda: Net().resize(9, 13, half=True).ten(),
    "resize, corners aligned": lambda: Net().resize(17, 40, corners=True).ten(),
    "resize, neither": lambda: Net().resize(20, 45).ten(),
    "resize of channels": lambda: small(3).resize(9, 20, half=True).ten(),
    "resize to one pixel, corners aligned": lambda: small(11).resize(1, 1, corners=True).ten(),
    # 28 · 120 · 20 is more than 16 bits hold.
    "resize of 120 channels": lambda: (
        Net()
        .conv(weights(120, 1, 1, 1), biases(120), 1 / 90, 1 / 200)
        .resize(32, 32, half=True)
        .pool("MAX", (1, 1), (8, 6))
        .ten()
    ),
    "logits far apart": lambda: small().dense(weights(10, 49), None, 1.0, 40.0),
    "logits close together": lambda: small().dense(weights(10, 49), None, 0.005, 1e-3),
    "logits of a usual scale": lambda: small().dense(weights(10, 49), None, 0.005, 0.3),
    "greatest of the logits several times": lambda: small().dense(weights(10, 49), None, 9.0, 2.0),
}
"""Nets from an image to ten logits: every op, each of its parameters, first in a net and later."""
BETAS = {"logits of a usual scale": 0.3}


@pytest.fixture
def saved(tmp_path):
    """Save a net, with a softmax at its end."""

    def save(net, name="test", beta=1.0):
        return net.softmax(beta).save(tmp_path / f"{name}.tflite")

    return save


@pytest.mark.slow
@pytest.mark.needs("gcc")
def test_every_op_answers_as_the_reference_kernels(saved, tmp_path):
    """One compilation, and every net: the list has to be empty."""
    models = [
        saved(net(), f"{number}", BETAS.get(name, 1.0))
        for number, (name, net) in enumerate(NETS.items())
    ]
    images, wrong = pictures(40), []
    for name, model, (_, found) in zip(
        NETS, models, answers(models, images, tmp_path), strict=True
    ):
        truth = reference(model, images)
        if not np.array_equal(found, truth):
            wrong.append(f"{name}: {(found != truth).sum()} outputs")
        if len(np.unique(truth[0])) < 5:
            wrong.append(f"{name}: saturated logits prove nothing")
    assert wrong == []


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("flags", ["-O0", "-O3"])
def test_the_reference_model_answers_as_the_reference_kernels(flags, tmp_path):
    images = pictures(100)
    ((_, found),) = answers([REFERENCE], images, tmp_path, (flags,))
    np.testing.assert_array_equal(found, reference(REFERENCE, images))


@pytest.mark.slow
@pytest.mark.needs("gcc")
@pytest.mark.mnist
def test_the_reference_model_on_the_test_set(mnist_dir, tmp_path):
    images = reading.load("mnist", "test", mnist_dir).images[:]
    ((classes, found),) = answers([REFERENCE], images, tmp_path, ("-O3",))
    np.testing.assert_array_equal(found, reference(REFERENCE, images))
    np.testing.assert_array_equal(classes, found[1].argmax(axis=1))


def answering(bias):
    """A net whose logits are `bias` for every image; one of them differs by 1/8 for each unit."""
    return Net().dense(np.zeros((10, 784), np.int8), bias, 1.0, 1 / 8, 0)


@pytest.mark.needs("gcc")
def test_classify_returns_minus_one_below_the_threshold(saved, tmp_path):
    """Ten equal logits have 26/256 each; one that is 3 greater has 177/256."""
    level = np.zeros(10, np.int32)
    ahead = np.where(np.arange(10) == 4, 3 * 255, 0)  # in units of 1 / 255
    models = [saved(answering(bias), name) for name, bias in (("level", level), ("ahead", ahead))]
    cases = {
        (0, 0.0): 0, (0, 26 / 256): 0, (0, 26.5 / 256): -1, (0, 27 / 256): -1,
        (1, 177 / 256): 4, (1, 178 / 256): -1, (1, 1.0): -1,
    }  # fmt: skip
    found = answers(
        [models[model] for model, _ in cases],
        np.zeros((1, 28, 28), np.uint8),
        tmp_path,
        thresholds=[threshold for _, threshold in cases],
    )
    assert [int(outputs[1].max()) + 128 for _, outputs in found] == [26] * 4 + [177] * 3
    assert [int(classes[0]) for classes, _ in found] == list(cases.values())


@pytest.fixture(scope="module")
def exported_c(tmp_path_factory):
    """The folder of the reference model's C; not to be changed."""
    target = tmp_path_factory.mktemp("c")
    digits = reading.load(catalogue.DIGITS, "train")
    golden = tflm.golden_images(digits.images[:], digits.labels)
    bundle.write(REFERENCE, *golden, target)
    return target


@pytest.fixture
def generated(exported_c, tmp_path):
    shutil.copytree(exported_c, tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.slow
@pytest.mark.needs("gcc")
@pytest.mark.parametrize("target", ["test", "sanitize"])
def test_the_folder_builds_without_a_warning_and_passes(generated, target):
    assert run("make", "-s", target, "CC=gcc", cwd=generated) == (
        "PASS: 16 images, every output as TensorFlow Lite has it\n"
    )


@pytest.mark.needs("gcc")
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


@pytest.mark.needs("gcc")
def test_the_test_program_answers_files(generated):
    images = pictures(20)
    (generated / "images").write_bytes(images.tobytes())
    run("make", "-s", "lenet5_test", "CC=gcc", cwd=generated)
    run("./lenet5_test", "images", "answers", cwd=generated)
    found = np.fromfile(generated / "answers", np.int8).reshape(20, 2, 10).swapaxes(0, 1)
    np.testing.assert_array_equal(found, reference(REFERENCE, images))


def test_there_is_nothing_but_integers_and_no_library(generated):
    text = (generated / "lenet5.c").read_text() + (generated / "lenet5.h").read_text()
    for word in ("float", "double", "malloc", "math.h", "string.h", "stdio.h"):
        assert word not in text


@pytest.mark.needs("g++", "gcc")
def test_the_sketch_compiles(generated):
    sketch = generated / "lenet5_example" / "lenet5_example.ino"
    stub = """
        #include <cstddef>
        struct { void begin(long) {} size_t readBytes(char *, size_t n) { return n; }
                 void println(int) {} } Serial;
    """
    (generated / "sketch.cc").write_text(stub + sketch.read_text() + "int main() { setup(); }")
    run("gcc", *STRICT, "-c", "lenet5.c", cwd=generated)
    run("g++", "-Wall", "-Wextra", "-Werror", "sketch.cc", "lenet5.o", "-o", "s", cwd=generated)


def needs(target):
    return pytest.mark.needs(target.compiler[0], target.emulator[0])


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=needs(t), id=t.name) for t in footprint.TARGETS]
)
def test_emulated_processors_answer_the_same(target, generated, tmp_path):
    images = pictures(60)
    (tmp_path / "images").write_bytes(images.tobytes())
    sources = [generated / "lenet5_test.c", generated / "lenet5.c"]
    footprint.build(target, sources, tmp_path / "test")
    assert run(*footprint.emulated(target, tmp_path / "test")).startswith("PASS: 16 images")
    run(*footprint.emulated(target, tmp_path / "test", "images", "answers"), cwd=tmp_path)
    found = np.fromfile(tmp_path / "answers", np.int8).reshape(60, 2, 10).swapaxes(0, 1)
    np.testing.assert_array_equal(found, reference(REFERENCE, images))


@needs(footprint.M4)
def test_what_it_takes_of_a_cortex_m4(generated):
    flash, memory, stack = footprint.memory(generated, "lenet5")
    assert flash <= 72_000
    assert memory + stack <= 8_000
    assert f"#define LENET5_SCRATCH_BYTES {memory}\n" in (generated / "lenet5.h").read_text()
    page = (generated / "README.md").read_text()
    assert f"| {flash:,} bytes |" in page
    assert f"| {memory:,} bytes |" in page
    assert "instructions an image, Cortex-M4" in page


def test_without_a_compiler_the_page_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert footprint.of_c("net", {}) == "Not measured: arm-none-eabi-gcc was not installed."


def test_a_compiler_without_its_library_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(footprint, "M4", footprint.Target("M4", ("false", "-O2"), ("false",), True))
    assert footprint.of_c("net", {}) == "Not measured: false failed: status 1"


def refused(model, tmp_path):
    """Export C from a command line; nothing may be written. Returns the line that says why."""
    target = tmp_path / "out"
    result = keras_lenet("export-c", model, "-o", target)
    assert result.returncode == 1
    assert not target.exists()
    lines = [line for line in result.stderr.splitlines() if line.startswith("keras-lenet: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
def test_a_float_file_is_refused(tmp_path):
    model = EXPORTED / "lenet5_float32.tflite"
    assert "C is generated from an int8 file, this one is float32" in refused(model, tmp_path)


@pytest.mark.slow
def test_a_truncated_file_is_refused(tmp_path):
    model = tmp_path / "half.tflite"
    model.write_bytes(REFERENCE.read_bytes()[:20_000])
    assert "half.tflite: damaged" in refused(model, tmp_path)


def test_a_uint8_file_is_refused():
    with pytest.raises(Error, match="C is generated from an int8 file, this one is uint8"):
        lowering.read(EXPORTED / "lenet5_uint8.tflite")


def vector():
    return small().reshape(1, 49)


REFUSED = {
    "CONV_2D: no C is generated for dilation": lambda: (
        Net().conv(weights(2, 2, 2, 1), dilation=(1, 2)).ten()
    ),
    "CONV_2D: no C is generated for the activation TANH in it": lambda: (
        Net().conv(weights(2, 2, 2, 1), activation=TANH).ten()
    ),
    "DEPTHWISE_CONV_2D: no C is generated for groups of channels": lambda: (
        Net().depthwise(weights(1, 2, 2, 3)).ten()
    ),
    "RESIZE_BILINEAR: no C is generated for an input one pixel wide or high": lambda: (
        Net().pool("MAX", (28, 1), (1, 1)).resize(3, 5).ten()
    ),
    "PAD: expected rows and columns around an image, found [[0, 0], [0, 0], [0, 0], [1, 0]]": (
        lambda: Net().pad([(0, 0), (0, 0), (0, 0), (1, 0)]).ten()
    ),
    "PAD: expected rows and columns around an image, found [[0, 0], [0, 1]]": lambda: (
        vector().pad([(0, 0), (0, 1)]).ten()
    ),
    "CONV_2D: its sums can exceed 32 bits": lambda: (
        Net().conv(weights(1, 1, 1, 1), np.array([2**31 - 100]), 1e-3).ten()
    ),
    "no C is generated for LOGISTIC; there is for AVERAGE_POOL_2D, CONV_2D": lambda: (
        small().op("LOGISTIC", (1, 7, 7, 1), 1 / 256, -128).ten()
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_supported_is_refused_by_name(reason, saved):
    with pytest.raises(Error) as caught:
        lowering.read(saved(REFUSED[reason]()))
    assert f"test.tflite: {reason}" in str(caught.value)


def test_the_greatest_sum_of_32_bits_is_taken_and_one_more_is_refused(saved):
    """One weight of 1, an input of zero point -128: the bias grows by 128, the sum by 128 more."""
    one = np.ones((1, 1, 1, 1), np.int8)
    lowering.read(saved(Net().conv(one, np.array([2**31 - 1 - 256]), 1e-9).ten()))
    with pytest.raises(Error, match="its sums can exceed 32 bits"):
        lowering.read(saved(Net().conv(one, np.array([2**31 - 256]), 1e-9).ten()))


def change(saved, change, net=lambda: Net().conv(weights(6, 3, 3, 1)).ten()):
    return edited(saved(net()), change)


def test_a_branch_is_refused(saved):
    def skip(content, graph):
        graph.operators[1].inputs = graph.operators[0].inputs

    model = change(saved, skip, lambda: Net().tanh(1 / 255, -128).tanh(1 / 255, -128).ten())
    with pytest.raises(Error, match="TANH: expected a chain of ops, found a branch"):
        lowering.read(model)


def test_a_file_without_softmax_is_refused(saved):
    def cut(content, graph):
        graph.outputs = [graph.operators[-1].inputs[0]]
        graph.operators.pop()

    with pytest.raises(Error, match="expected one SOFTMAX, at the end"):
        lowering.read(change(saved, cut))


def test_two_softmaxes_are_refused(saved):
    net = Net().ten().softmax().quantize(1 / 256, -128)
    with pytest.raises(Error, match="expected one SOFTMAX, at the end"):
        lowering.read(saved(net))


def test_a_softmax_of_an_image_is_refused(saved):
    net = small().pool("MAX", (1, 1), (7, 1)).pad([(0, 0), (0, 0), (0, 3), (0, 0)])
    assert net.shape == (1, 1, 10, 1)
    with pytest.raises(Error, match=r"expected (one vector, found shape|an output of shape)"):
        lowering.read(saved(net))


@pytest.mark.parametrize(("scale", "zero"), [(1 / 127, -128), (1 / 255, -127)])
def test_another_input_is_refused(scale, zero, saved):
    def rescale(content, graph):
        quantization = graph.tensors[graph.inputs[0]].quantization
        quantization.scale, quantization.zeroPoint = [scale], [zero]

    with pytest.raises(Error, match="its input isn't pixel - 128, which the C interface takes"):
        lowering.read(change(saved, rescale))


def test_scales_per_channel_that_are_too_few_are_refused(saved):
    def cut(content, graph):
        for tensor in graph.tensors:
            if len(tensor.shape) == 4 and tensor.shape[0] == 6:
                tensor.quantization.scale = [1.0] * 5
                tensor.quantization.zeroPoint = [0] * 5

    with pytest.raises(Error):
        lowering.read(change(saved, cut))


@pytest.mark.slow
def test_the_command_writes_the_folder(tmp_path, exported_c):
    result = keras_lenet("export-c", REFERENCE, "-o", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    for name in ("lenet5.c", "lenet5.h", "lenet5_test.c", "Makefile", "README.md"):
        assert (tmp_path / "c" / name).read_bytes() == (exported_c / name).read_bytes()


def test_the_folder_names_the_source_of_its_digits(exported_c):
    for name in ("lenet5_test.c", "README.md"):
        text = (exported_c / name).read_text()
        for credit in ("Optical Recognition of Handwritten Digits", "Alpaydin", "CC BY 4.0"):
            assert credit in text


def test_the_folder_states_the_threshold_of_the_file(exported_c):
    """162/256: what the published file's metadata carry."""
    assert "#define LENET5_THRESHOLD (34)\n" in (exported_c / "lenet5.h").read_text()
    for name in ("lenet5.h", "README.md", "lenet5_example/lenet5_example.ino"):
        assert "-1" in (exported_c / name).read_text()


@pytest.mark.needs("gcc")
def test_the_test_fails_where_a_blank_image_gets_a_class(generated):
    source = generated / "lenet5.c"
    text = source.read_text()
    rejection = "greatest < LENET5_THRESHOLD ? -1 : best"
    assert rejection in text
    source.write_text(text.replace(rejection, "greatest < -128 ? -1 : best"))
    result = subprocess.run(
        ["make", "-s", "CC=gcc"], cwd=generated, capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("FAIL: ")
    assert result.stdout.endswith(": expected the class -1\n")


def test_names_are_identifiers(tmp_path):
    names = {"lenet5_int8": "lenet5", "My-net 2": "my_net_2", "5": "model_5", "größe": "gr__e"}
    for stem, name in names.items():
        assert bundle.identifier(tmp_path / f"{stem}.tflite") == name


# Products of an int32 multiplier with 31 fractional bits, by hand or in exact fractions.


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.0, (0, 0)),
        (0.5, (2**30, 0)),
        (1.0, (2**30, 1)),
        (3.0, (3 << 29, 2)),
        (0.75 + 2**-32, ((3 << 29) + 1, 0)),  # a tie rounds up
        (0.75 + 2**-33, (3 << 29, 0)),
        (1 - 2**-40, (2**30, 1)),  # rounds to 2^31, which is no int32
        (2**-32, (2**30, -31)),
        (2**-33, (0, 0)),
    ],
)
def test_multipliers_of_known_factors(factor, expected):
    assert arithmetic.quantize_multiplier(factor) == expected


@pytest.mark.parametrize(
    ("value", "bits", "expected"),
    [
        (5, 0, 5), (-5, 0, -5), (5, 1, 3), (-5, 1, -3), (4, 3, 1), (-4, 3, -1), (3, 3, 0),
        (-3, 3, 0), (11, 3, 1), (-11, 3, -1), (12, 3, 2), (-12, 3, -2), (-13, 3, -2),
    ],
)  # fmt: skip
def test_a_shift_rounds_ties_away_from_zero(value, bits, expected):
    assert arithmetic.round_shift(value, bits) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 2**30, 1), (-1, 2**30, 0), (3, 2**30, 2), (-3, 2**30, -1), (1, 2**30 - 1, 0),
        (-(2**31), -(2**31), 2**31 - 1), (-(2**31), 2**30, -(2**30)), (7, 0, 0),
    ],
)  # fmt: skip
def test_a_high_product_rounds_ties_up_and_saturates(a, b, expected):
    assert arithmetic.high_multiply(a, b) == expected


@pytest.mark.parametrize(
    ("value", "factor", "expected"),
    [(5, 0.5, 3), (-5, 0.5, -2), (6, 0.25, 2), (-6, 0.25, -2), (5, 3.0, 15), (-7, 1.0, -7)],
)
def test_a_product_rounds_twice(value, factor, expected):
    """-6/4 rounds to -3/2 exactly, and that away from zero; -5/2 rounds up, with nothing after."""
    assert arithmetic.multiply(value, *arithmetic.quantize_multiplier(factor)) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (-0.5, -1), (1.49, 1), (-1.51, -2), (2.5, 3), (0.0, 0)]
)
def test_a_real_value_rounds_ties_away_from_zero(value, expected):
    assert arithmetic.round_half_away(np.float32(value)) == expected


def test_requantization_of_known_values():
    """To a scale three times as coarse: times 2/3, ties up, then half of it, ties away from 0."""
    table = arithmetic.requantization(1.0, 4, 3.0, -5).tolist()
    first = [
        math.floor(Fraction(2 * (value - 4), 3) + Fraction(1, 2)) for value in range(-128, 128)
    ]
    assert table == [int(math.copysign((abs(value) + 1) // 2, value)) - 5 for value in first]


def test_requantization_saturates():
    table = arithmetic.requantization(2.0, 0, 1.0, 3)
    assert table.dtype == np.int8
    assert table.tolist() == [min(max(2 * value + 3, -128), 127) for value in range(-128, 128)]


def test_tanh_of_known_values():
    table = arithmetic.tanh(1 / 16, 10, 1 / 128, 3).tolist()
    real = [128 * math.tanh((value - 10) / 16) + 3 for value in range(-128, 128)]
    assert table == [min(max(round(value), -128), 127) for value in real]


def test_exponentials_are_those_of_the_real_function():
    """To 2^-22, and as many as count."""
    found = arithmetic.exponentials(0.1, 1.0)
    real = np.exp(-0.1 * np.arange(len(found)))
    assert found[0] == 2**31 - 1
    np.testing.assert_allclose(found / 2**31, real, atol=2**-22)
    assert len(found) == 139  # exp(-13.9) · 2^19 is 0.48: it rounds to 0


def test_exponentials_are_at_most_256():
    """Two int8 values differ by 255 at most."""
    assert len(arithmetic.exponentials(1e-3, 1.0)) == 256


def test_exponentials_of_far_inputs_count_for_nothing():
    """Q5.26 ends at 32: from there TensorFlow Lite answers 0."""
    assert len(arithmetic.exponentials(20.0, 1.0)) == 1
    assert len(arithmetic.exponentials(20.0, 0.5)) == 2


@pytest.mark.parametrize(
    ("arguments", "lower", "weights"),
    [
        # 2 to 4, half-pixel centres: -1/4, 1/4, 3/4, 5/4; beyond the edges there is one neighbour.
        ((2, 4, True, False), [0, 0, 0, 0], [0, 256, 768, 1024]),
        ((2, 4, False, False), [0, 0, 0, 0], [0, 512, 1024, 1024]),
        ((3, 5, False, True), [0, 0, 1, 1, 1], [0, 512, 0, 512, 1024]),
        ((4, 2, True, False), [0, 2], [512, 512]),
        ((4, 1, False, True), [0], [0]),
        ((5, 3, False, False), [0, 1, 3], [0, 683, 342]),
        ((2, 7, False, False), [0] * 7, [0, 293, 586, 879, 1024, 1024, 1024]),
        ((4, 2, False, True), [0, 2], [0, 1024]),
        ((3, 4, False, True), [0, 0, 1, 1], [0, 683, 342, 1024]),
        ((28, 28, True, False), [*range(27), 26], [0] * 27 + [1024]),
    ],
)
def test_interpolation_of_known_sizes(arguments, lower, weights):
    assert arithmetic.interpolation(*arguments) == (lower, weights)


def test_one_rounding_is_that_of_a_float64_product():
    """Ties too: factors that are short binary fractions have them."""
    generator = np.random.default_rng(0)
    sums = np.arange(-70_000, 70_000)
    for factor in (2**-7, 3 * 2**-9, *np.exp(generator.uniform(-9, -3, 50))):
        multiplier, shift = arithmetic.single_rounding(float(factor), -128, 127, 70_000)
        real = sums * factor
        wanted = np.copysign(np.floor(np.abs(real) + 0.5), real)
        found = (sums * multiplier + (1 << (30 - shift)) - (sums < 0)) >> (31 - shift)
        np.testing.assert_array_equal(np.clip(found, -128, 127), np.clip(wanted, -128, 127))


def test_a_factor_that_no_multiplier_has_is_refused():
    """Sums of 40 bits tell factors apart that multipliers of 31 bits do not."""
    with pytest.raises(Error, match="no multiplier of 31 bits rounds as the factor"):
        arithmetic.single_rounding(math.pi / 3 * 2**-33, -128, 127, 2**45)


def test_scratch_memory_never_overlaps():
    """Each layer's output lies clear of its input, inside the buffer."""
    network = lowering.read(REFERENCE)
    layout = emitter.plan(network)
    ends = [
        (place, place + int(np.prod(layer.target)))
        for place, layer in zip(layout.places, network, strict=False)
    ]
    assert max(end for _, end in ends) <= layout.values
    for (start, end), (other, stop) in itertools.pairwise(ends):
        assert end <= other or stop <= start
