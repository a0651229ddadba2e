"""Tests of the examples in `exported/examples`: each answers as the classifier does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stub_tflm
from conftest import CORTEX_M, WARNINGS, draw_digits
from PIL import Image

from keras_lenet.edge.classifier import Classifier

EXPORTED = Path(__file__).parents[1] / "exported"
EXAMPLES = EXPORTED / "examples"
IMAGES = [np.zeros((28, 28), np.uint8), *draw_digits(10, 0)[0]]


def run(*command, cwd, **options):
    result = subprocess.run(command, cwd=cwd, capture_output=True, check=False, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def expected(file):
    """Return each image's digit, or "no digit", by the package's own classifier."""
    classifier = Classifier(EXPORTED / file)
    probabilities = classifier.predict(np.stack(IMAGES))
    accepted = probabilities.max(axis=1) >= classifier.threshold
    answers = np.where(accepted, probabilities.argmax(axis=1).astype(str), "no digit")
    assert answers[0] == "no digit"
    assert len(set(answers)) > 5
    return answers.tolist()


def test_python_example(tmp_path):
    answers = expected("lenet5_int8.tflite")
    for place in (0, 3, 7):
        Image.fromarray(IMAGES[place]).save(tmp_path / "digit.png")
        script = EXAMPLES / "raspberry_pi.py"
        printed = run(sys.executable, "-W", "error", script, "digit.png", cwd=tmp_path)
        assert printed.startswith(f"{answers[place]} "), printed


@pytest.mark.needs("gcc")
def test_c99_example(tmp_path):
    flags = ("-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{EXPORTED / 'c'}")
    sources = (EXAMPLES / "c99.c", EXPORTED / "c" / "lenet5.c")
    run("gcc", *flags, *sources, "-o", "c99", cwd=tmp_path)
    program = tmp_path / "c99"
    printed = [run(program, cwd=tmp_path, input=image.tobytes()).strip() for image in IMAGES]
    assert printed == expected("microcontroller/lenet5_int8_plain.tflite")
    short = subprocess.run([program], input=bytes(783), capture_output=True, check=False)
    assert (short.returncode, short.stderr) == (1, b"expected 784 bytes\n")


MAIN = """
#include <cstdio>
#include <initializer_list>

int main() {
  for (int score : {0, 161, 162, 255}) {
    unsigned char pixels[lenet5_input_size] = {0, 1, 0, 0, static_cast<unsigned char>(score)};
    std::printf("%d\\n", classify(pixels));
  }
}
"""
"""The stand-in's network answers with the first ten pixels: class 4 gets the score, of 256."""


@pytest.fixture
def sketch(tmp_path):
    """A folder with the C++ example, a main that calls it, and headers that stand for TFLM."""
    (tmp_path / "sketch.cc").write_text((EXAMPLES / "tflite_micro.cc").read_text() + MAIN)
    stub_tflm.write(tmp_path / "tflm")
    return tmp_path


def compiled(compiler, flags, folder, *more):
    options = [*flags, "-DTF_LITE_STATIC_MEMORY", f"-I{EXPORTED / 'microcontroller'}"]
    for place in ("tflm", *(f"tflm/{stub_tflm.DOWNLOADS}/{name}" for name in stub_tflm.INCLUDED)):
        options += ["-isystem", place]
    run(compiler, *options, "sketch.cc", *more, cwd=folder)


@pytest.mark.needs("g++")
def test_cpp_example_rejects_below_the_threshold(sketch):
    """The published file's threshold is 162/256."""
    model = EXPORTED / "microcontroller" / "lenet5_model.cc"
    compiled("g++", WARNINGS, sketch, model, f"tflm/{stub_tflm.LIBRARY}", "-o", "sketch")
    assert run(sketch / "sketch", cwd=sketch).split() == ["-1", "-1", "4", "4"]


@pytest.mark.needs("arm-none-eabi-g++")
def test_cpp_example_compiles_for_a_cortex_m(sketch):
    compiled("arm-none-eabi-g++", CORTEX_M, sketch, "-c")


@pytest.mark.parametrize("name", ["DigitClassifier.kt", "DigitClassifier.swift"])
def test_examples_that_are_not_compiled_say_so(name):
    assert "Not compiled by the tests: " in (EXAMPLES / name).read_text()
