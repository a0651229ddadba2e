"""The README's snippets, as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CORTEX_M, WARNINGS, draw_digits, needs_arm_compiler, needs_compiler, write_tflm
from PIL import Image

from keras_lenet.edge.classifier import Classifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def snippets(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(*command, cwd):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_python_without_this_package(tmp_path):
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    snippet = snippets("python")[0]
    assert "keras_lenet" not in snippet
    *_, confidence = run(sys.executable, "-W", "error", "-c", snippet, cwd=tmp_path).split()
    blank = np.zeros((1, 28, 28), np.uint8)
    assert (
        float(confidence)
        == Classifier(ROOT / "exported" / "lenet5_int8.tflite").predict(blank).max()
    )


def test_python_with_this_package(tmp_path):
    Image.fromarray(draw_digits(8, 0)[0][7]).save(tmp_path / "photo.jpg")
    printed = run(sys.executable, "-W", "error", "-c", snippets("python")[1], cwd=tmp_path)
    answer = Classifier().classify(Image.open(tmp_path / "photo.jpg"))
    assert answer.digit == 7
    assert printed.startswith("7 " if answer.accepted else "no digit "), printed


MAIN = """
#include <cstdio>
#include "lenet5_golden.h"

int main() {
  for (const auto& image : lenet5_golden_images) {
    unsigned char pixels[lenet5_input_size];
    for (int i = 0; i < lenet5_input_size; ++i) pixels[i] = image[i] + 128;
    std::printf("%d\\n", classify(pixels));
  }
}
"""


@pytest.fixture
def sketch(bundle):
    """A folder with the C++ snippet, a main that calls it, and what they include."""
    (snippet,) = snippets("cpp")
    (bundle / "sketch.cc").write_text(snippet + MAIN)
    write_tflm(bundle / "tflm")
    return bundle


def compiled(compiler, flags, folder, threshold=0.0):
    contract = folder / "lenet5_contract.h"
    text, count = re.subn(r"(_threshold = )\S+;", rf"\g<1>{threshold}f;", contract.read_text())
    assert count == 1
    contract.write_text(text)
    command = [compiler, *flags, "-isystem", "tflm", "-DWRONG=-1"]
    run(*command, "-o", "sketch", "sketch.cc", "lenet5_model.cc", cwd=folder)
    return folder / "sketch"


@needs_compiler
@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.1])
def test_cpp(sketch, threshold):
    answers = run(compiled("g++", WARNINGS, sketch, threshold), cwd=sketch).split()
    header = (sketch / "lenet5_golden.h").read_text().partition("golden_outputs")[2]
    outputs = [json.loads(f"[{row}]") for row in re.findall(r"\{(-?\d[-\d, ]*)\}", header)]
    assert len(outputs) == 16
    expected = [
        np.argmax(scores) if (max(scores) + 128) / 256 >= threshold else -1 for scores in outputs
    ]
    assert [int(answer) for answer in answers] == expected


@needs_arm_compiler
def test_cpp_for_a_cortex_m(sketch):
    assert compiled("arm-none-eabi-g++", CORTEX_M, sketch).exists()


@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_what_is_not_compiled_says_so(language):
    assert snippets(language)
    assert README.partition(f"```{language}\n")[0].endswith("Not compiled by the tests.\n\n")


def test_every_snippet_is_tested_or_says_that_it_is_not():
    languages = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert sorted(languages) == ["cpp", "kotlin", "python", "python", "swift"]
