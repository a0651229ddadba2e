"""The README's snippets, as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stub_tflm
from conftest import CORTEX_M, WARNINGS, draw_digits
from PIL import Image

from keras_lenet.deploy import tflm
from keras_lenet.edge.classifier import Classifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def snippets(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(*command, cwd):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_python_without_this_package(tmp_path):
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    snippet = snippets("python")[0]
    assert "keras_lenet" not in snippet
    *_, confidence = run(sys.executable, "-W", "error", "-c", snippet, cwd=tmp_path).split()
    classifier = Classifier(ROOT / "exported" / "lenet5_int8.tflite")
    assert float(confidence) == classifier.predict(np.zeros((1, 28, 28), np.uint8)).max()


def test_python_with_this_package(tmp_path):
    Image.fromarray(draw_digits(8, 0)[0][7]).save(tmp_path / "photo.jpg")
    printed = run(sys.executable, "-W", "error", "-c", snippets("python")[1], cwd=tmp_path)
    answer = Classifier().classify(Image.open(tmp_path / "photo.jpg"))
    assert answer.digit == 7
    assert printed.startswith("7 " if answer.accepted else "no digit "), printed


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


@pytest.fixture(params=["README", "page of the bundle"])
def sketch(request, tmp_path):
    """A folder with a C++ snippet, a main that calls it, and the bundle that it includes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    model = ROOT / "exported" / "microcontroller" / "lenet5_int8_plain.tflite"
    tflm.write(model, folder)
    text = README if request.param == "README" else (folder / "README.md").read_text()
    (snippet,) = snippets("cpp", text)
    (folder / "sketch.cc").write_text(snippet + MAIN)
    stub_tflm.write(folder / "tflm")
    return folder


def compiled(compiler, flags, folder, *output):
    options = [*flags, "-DTF_LITE_STATIC_MEMORY"]
    for place in ("tflm", *(f"tflm/{stub_tflm.DOWNLOADS}/{name}" for name in stub_tflm.INCLUDED)):
        options += ["-isystem", place]
    run(compiler, *options, "sketch.cc", *output, cwd=folder)


@pytest.mark.needs("g++")
def test_cpp_rejects_below_the_threshold(sketch):
    """The published file's threshold is 162/256."""
    sources = ("lenet5_model.cc", f"tflm/{stub_tflm.LIBRARY}")
    compiled("g++", WARNINGS, sketch, *sources, "-o", "sketch")
    assert run(sketch / "sketch", cwd=sketch).split() == ["-1", "-1", "4", "4"]


@pytest.mark.needs("arm-none-eabi-g++")
def test_cpp_for_a_cortex_m(sketch):
    compiled("arm-none-eabi-g++", CORTEX_M, sketch, "-c")


def test_every_snippet_is_tested_or_says_that_it_is_not():
    languages = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert sorted(languages) == ["cpp", "kotlin", "python", "python", "swift"]
    for language in ("kotlin", "swift"):
        assert README.partition(f"```{language}\n")[0].endswith("Not compiled by the tests.\n\n")


def test_make_run_installs_what_users_need_alone():
    printed = run("make", "--dry-run", "--always-make", "run", cwd=ROOT)
    assert "--editable '.[train]'" in printed
    assert "--group" not in printed
    assert "keras-lenet run pipelines/quickstart.toml\n" in printed
