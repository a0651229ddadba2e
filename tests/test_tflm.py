"""The bundle for TensorFlow Lite Micro: its vectors, its files, its self-test and its Makefile."""

import hashlib
import shutil
import subprocess

import numpy as np
import pytest
import stub_tflm
from conftest import CORTEX_M, PIPELINES
from small_nets import Net

from keras_lenet.deploy import tflm
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


def make(folder, *arguments):
    return subprocess.run(
        ["make", "-s", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.needs("tflite_micro")
def test_published_bundle_is_generated_from_the_published_file(written):
    """Its vectors are outputs of the real interpreter, and its hash that of the file."""
    names = {path.name for path in written.iterdir()}
    assert names == {path.name for path in REFERENCE.parent.iterdir()}
    for name in names:
        assert (written / name).read_bytes() == (REFERENCE.parent / name).read_bytes(), name
    header = (written / "lenet5_model.h").read_text()
    content = REFERENCE.read_bytes()
    assert hashlib.sha256(content).hexdigest() in header
    assert f"lenet5_model_size = {len(content)};" in header
    for name in ("lenet5_golden.h", "README.md"):
        text = (written / name).read_text()
        for credit in ("Optical Recognition of Handwritten Digits", "Alpaydin", "CC BY 4.0"):
            assert credit in text


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


def test_names_follow_the_file_and_classes_without_names_are_numbers(tmp_path):
    model = Net().pool("MAX", (4, 4)).ten().softmax().save(tmp_path / "tiny.tflite")
    folder = tmp_path / "bundle"
    tflm.write(model, folder)
    text = (folder / "tiny_contract.h").read_text()
    assert '"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}' in text
    assert "tiny_threshold = 0.0f;" in text
    assert "ifndef TINY_NO_MAIN" in (folder / "self_test.cc").read_text()


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
