import subprocess

import numpy as np
import pytest
from conftest import CORTEX_M, draw_digits, needs_arm_compiler, needs_compiler, write_tflm

from keras_lenet.edge import microcontroller
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error


def make(folder, *arguments):
    return subprocess.run(
        ["make", "-s", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@needs_compiler
def test_the_self_test_compiles_without_a_warning_and_passes(bundle):
    result = make(bundle)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        "PASS: the model array and 16 golden vectors; no interpreter to answer them\n"
    )


@needs_compiler
def test_a_changed_byte_of_the_model_fails_it(bundle):
    source = bundle / "lenet5_model.cc"
    text = source.read_text()
    assert " 84, 70, 76, 51," in text  # TFL3
    source.write_text(text.replace(" 84, 70, 76, 51,", " 84, 70, 76, 52,", 1))
    result = make(bundle)
    assert "FAIL: the model's hash is" in result.stdout
    assert result.returncode != 0


@needs_arm_compiler
def test_it_compiles_for_a_cortex_m(bundle):
    flags = f"CXXFLAGS={' '.join(CORTEX_M)}"
    result = make(bundle, "self_test", "CXX=arm-none-eabi-g++", flags)
    assert result.returncode == 0, result.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (-1, "PASS: the model array and 16 golden vectors, answered bit for bit\n"),
        (2, "FAIL: a 2: output 3 is "),
    ],
)
def test_with_an_interpreter_every_output_is_compared(bundle, wrong, expected):
    write_tflm(bundle / "tflm")
    result = make(bundle, "TFLM=tflm", f"CPPFLAGS=-isystem tflm -DWRONG={wrong}")
    assert result.stdout.startswith(expected), result.stderr
    assert (result.returncode == 0) == (wrong == -1)


def test_golden_vectors_have_every_class_and_the_edge_cases():
    images, labels = draw_digits(30, 0)
    golden, names = microcontroller.golden_images(images, labels)
    assert names[:10] == [f"a {digit}" for digit in range(10)]
    assert len(golden) == len(names) == 16
    by_name = dict(zip(names, golden, strict=True))
    assert not by_name["blank"].any()
    assert (by_name["full ink"] == 255).all()
    assert by_name["one pixel in each corner"].sum() == 4 * 255
    assert (by_name["gradient"].min(), by_name["gradient"].max()) == (0, 255)


def test_the_vectors_in_the_header_are_the_models_own(finished, bundle):
    text = (bundle / "lenet5_golden.h").read_text()
    model = finished.folder / "export" / "lenet5_int8.tflite"
    blank = Classifier(model, kernels="reference").raw(np.zeros((1, 28, 28), np.uint8))[0]
    assert f"  {{{', '.join(map(str, blank))}}},\n" in text


def test_fnv1a_of_known_strings():
    """The test vectors that its authors publish."""
    assert microcontroller.fnv1a(b"") == 0x811C9DC5
    assert microcontroller.fnv1a(b"a") == 0xE40C292C
    assert microcontroller.fnv1a(b"foobar") == 0xBF9CF968


def test_only_an_int8_file_is_taken(finished, tmp_path):
    images = np.zeros((1, 28, 28), np.uint8)
    path = finished.folder / "export" / "lenet5_uint8.tflite"
    with pytest.raises(Error, match="takes an int8 file"):
        microcontroller.write(path, images, ["blank"], tmp_path)
