"""The bundle for TensorFlow Lite Micro: its vectors, its files, its self-test and its Makefile."""

import hashlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import stub_tflm
from conftest import CORTEX_M, PIPELINES
from small_nets import Net

from keras_lenet.data import catalogue, reading
from keras_lenet.deploy import tflm
from keras_lenet.edge.classifier import Classifier
from keras_lenet.tflite import parity

EXPORTED = PIPELINES.parent / "exported"
REFERENCE = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The reference model's bundle; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle")
    tflm.write(REFERENCE, folder)
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    shutil.copytree(written, tmp_path / "bundle")
    return tmp_path / "bundle"


def vectors(folder):
    """The images, names and outputs in the header of golden vectors."""
    text = (folder / "lenet5_golden.h").read_text()
    rows = re.findall(r"\{([-\d,\s]+)\}", text.partition("golden_images")[2])
    numbers = [np.array([int(n) for n in row.split(",") if n.strip()], np.int8) for row in rows]
    names = re.findall(r'"([^"]+)"', text.partition("golden_names")[2].partition(";")[0])
    images = np.array([row for row in numbers if len(row) == 784])
    return images, names, np.array([row for row in numbers if len(row) == 10])


def make(folder, *arguments):
    return subprocess.run(
        ["make", "-s", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_golden_images_are_the_first_of_each_class_and_the_edge_cases():
    digits = reading.load(catalogue.DIGITS, "train")
    rows, columns = np.indices((28, 28))
    corners = np.zeros((28, 28))
    corners[[0, 0, 27, 27], [0, 27, 0, 27]] = 255
    expected = {f"a {k}": digits.images[list(digits.labels).index(k)] for k in range(10)} | {
        "blank": np.zeros((28, 28)),
        "full ink": np.full((28, 28), 255),
        "checkerboard": np.where((rows + columns) % 2, 255, 0),
        "gradient": np.reshape([255 * place // 783 for place in range(784)], (28, 28)),
        "one pixel in each corner": corners,
    }
    images, names = tflm.golden_images()
    assert images.dtype == np.uint8
    assert names == [*expected, "noise"]
    np.testing.assert_array_equal(images[:-1], list(expected.values()))
    assert (images[-1].min(), images[-1].max()) == (0, 255)


@pytest.mark.needs("tflite_micro")
def test_vectors_are_the_outputs_of_the_real_interpreter(written):
    images, names = tflm.golden_images()
    inputs, found, outputs = vectors(written)
    assert found == names
    np.testing.assert_array_equal(inputs, images.reshape(-1, 784).astype(int) - 128)
    answers, _ = parity.run_micro(REFERENCE, inputs.reshape(-1, 28, 28, 1))
    np.testing.assert_array_equal(outputs, answers)
    # LiteRT's reference kernels round these once where TensorFlow Lite Micro rounds twice.
    row = names.index("one pixel in each corner")
    assert outputs[row, 3] == -104
    assert Classifier(REFERENCE, kernels="reference").raw(images)[row, 3] == -102


def test_without_the_interpreter_there_are_no_vectors_and_a_line_says_so(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(parity, "has_micro", lambda: False)
    tflm.write(REFERENCE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "lenet5_contract.h", "lenet5_int8_plain.tflite", "lenet5_model.cc",
        "lenet5_model.h", "lenet5_ops.h",
    }  # fmt: skip
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "golden" in line]
    assert line.startswith("no golden vectors for lenet5_int8_plain.tflite: ")
    assert "pip install --pre tflite-micro" in line
    page = (tmp_path / "README.md").read_text()
    assert "There are no golden vectors and no self-test" in page
    assert "self_test" not in page
    assert "an estimate, twice the activations" in page


def test_the_array_is_the_file(written):
    text = (written / "lenet5_model.cc").read_text()
    numbers = text.partition("= {")[2].partition("}")[0]
    content = bytes(int(number) for number in numbers.split(",") if number.strip())
    assert content == REFERENCE.read_bytes() == (written / "lenet5_int8_plain.tflite").read_bytes()
    header = (written / "lenet5_model.h").read_text()
    assert f"lenet5_model_size = {len(content)};" in header
    assert f"lenet5_model_fnv1a = {tflm.fnv1a(content):#010x};" in header
    assert hashlib.sha256(content).hexdigest() in header


def test_the_contract_is_the_files(written):
    text = (written / "lenet5_contract.h").read_text()
    constants = dict(re.findall(r"constexpr \w+ lenet5_(\w+) = ([^;]+);", text))
    used, how = parity.arena(REFERENCE)
    arena = int(constants.pop("arena_size"))
    assert (arena % 1024, arena - 1024 < used <= arena) == (0, True)
    assert np.float32(constants.pop("input_scale").rstrip("f")) == np.float32(1 / 255)
    assert constants == {
        "side": "28", "input_size": "784", "input_zero_point": "-128", "classes": "10",
        "output_scale": "0.00390625f", "output_zero_point": "-128", "threshold": "0.6328125f",
    }  # fmt: skip
    assert f"// {how}.\n" in text
    labels = re.search(r"labels\[lenet5_classes\] = \{([^}]*)\}", text)[1]
    assert labels.split() == [f'"{digit}",' for digit in range(9)] + ['"9"']


def test_the_resolver_has_exactly_the_ops_of_the_model(written):
    text = (written / "lenet5_ops.h").read_text()
    assert re.findall(r"resolver\.(\w+)\(\)", text) == [
        "AddConv2D", "AddFullyConnected", "AddMaxPool2D", "AddResizeBilinear", "AddSoftmax",
    ]  # fmt: skip
    assert "MicroMutableOpResolver<5>" in text


def test_names_follow_the_file_and_classes_without_names_are_numbers(tmp_path):
    model = Net().pool("MAX", (4, 4)).ten().softmax().save(tmp_path / "tiny.tflite")
    folder = tmp_path / "bundle"
    tflm.write(model, folder)
    text = (folder / "tiny_contract.h").read_text()
    assert '"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}' in text
    assert "tiny_threshold = 0.0f;" in text
    assert "ifndef TINY_NO_MAIN" in (folder / "self_test.cc").read_text()


def test_the_source_of_the_digits_is_named(written):
    for name in ("lenet5_golden.h", "README.md"):
        text = (written / name).read_text()
        for credit in ("Optical Recognition of Handwritten Digits", "Alpaydin", "CC BY 4.0"):
            assert credit in text


@pytest.mark.parametrize(
    ("text", "expected"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)]
)
def test_fnv1a_of_its_authors_vectors(text, expected):
    assert tflm.fnv1a(text) == expected


# The self-test and its Makefile.


@pytest.mark.needs("g++", "tflite_micro")
def test_self_test_says_that_it_has_no_interpreter_or_requires_its_headers(bundle):
    result = make(bundle)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        "PASS: the model array and 16 golden vectors; no interpreter to answer them\n"
    )
    result = make(bundle, "self_test", "OPTIONS=")  # as in a firmware without their folder
    assert result.returncode != 0
    assert "tensorflow/lite/micro/" in result.stderr


@pytest.mark.needs("g++", "tflite_micro")
def test_a_changed_byte_of_the_model_fails_the_self_test(bundle):
    source = bundle / "lenet5_model.cc"
    text = source.read_text()
    assert " 84, 70, 76, 51," in text  # TFL3
    source.write_text(text.replace(" 84, 70, 76, 51,", " 84, 70, 76, 52,", 1))
    result = make(bundle)
    assert "FAIL: the model's hash is" in result.stdout
    assert result.returncode != 0


@pytest.mark.needs("arm-none-eabi-g++", "tflite_micro")
def test_self_test_compiles_for_a_cortex_m(bundle):
    flags = f"CXXFLAGS={' '.join(CORTEX_M)}"
    result = make(bundle, "self_test", "CXX=arm-none-eabi-g++", flags)
    assert result.returncode == 0, result.stderr


@pytest.mark.needs("g++")
def test_the_self_test_compares_every_output_of_the_interpreter(monkeypatch, tmp_path):
    """In the bundle and in the stub, an image is answered with its first ten pixels, less 128."""
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, 0, [2, 7]] = 100, 156  # of 256
    images[1, 0, [0, 1, 9]] = 230, 16, 10
    monkeypatch.setattr(parity, "has_micro", lambda: True)
    monkeypatch.setattr(parity, "arena", lambda path: (9_000, "by hand"))
    monkeypatch.setattr(
        parity, "run_micro", lambda path, inputs: (inputs.reshape(-1, 784)[:, :10], 9_000)
    )
    bundle, named = tmp_path / "bundle", f"TFLM={tmp_path / 'tflm'}"
    monkeypatch.setattr(tflm, "golden_images", lambda: (images, ["one", "other"]))
    tflm.write(REFERENCE, bundle)
    stub_tflm.write(tmp_path / "tflm")
    make(bundle)  # what was built without an interpreter is not used again
    result = make(bundle, named, "CPPFLAGS=-DNDEBUG")
    passed = "PASS: the model array and 2 golden vectors, answered bit for bit\n"
    assert result.stdout == passed, result.stderr
    golden = bundle / "lenet5_golden.h"
    assert golden.read_text().count("-128, -118}") == 1
    golden.write_text(golden.read_text().replace("-128, -118}", "-128, -117}"))
    result = make(bundle, named)
    assert result.stdout == "FAIL: other: output 9 is -118, expected -117\n"
    assert result.returncode != 0


@pytest.mark.needs("tflite_micro")
@pytest.mark.parametrize("missing", [*stub_tflm.NEEDED, None])
def test_a_checkout_that_was_not_built_fails_with_a_line(missing, bundle, tmp_path):
    """None: TFLM is empty."""
    for name in stub_tflm.NEEDED:
        if name != missing:
            (tmp_path / "tflm" / name).mkdir(parents=True)
    checkout = tmp_path / "tflm" if missing else ""
    result = make(bundle, f"TFLM={checkout}", "CPPFLAGS=")
    assert result.returncode != 0
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert f"{checkout}/{missing or stub_tflm.NEEDED[0]} is missing" in line
