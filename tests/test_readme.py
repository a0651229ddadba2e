"""Tests of the README: its size, its Python and every command in it."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMOKE, draw_digits, keras_lenet
from PIL import Image

from keras_lenet.edge.classifier import Classifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = dict.fromkeys(("python", "sh"), "")
for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
    BLOCKS[language] += block
COMMANDS = [line.partition("#")[0].strip() for line in BLOCKS["sh"].splitlines()]


def test_readme_fits_on_one_page():
    assert len(README.encode()) <= 8_000


def test_python_of_the_readme_classifies_a_photo(tmp_path):
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    Image.fromarray(draw_digits(8, 0)[0][7]).save(tmp_path / "photo.jpg")
    command = [sys.executable, "-W", "error", "-c", BLOCKS["python"]]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = Classifier().classify(Image.open(tmp_path / "photo.jpg"))
    expected = answer.digit if answer.accepted else "no digit"
    assert printed.stdout == f"{expected} {answer.confidence}\n"


@pytest.mark.parametrize("target", ["run", "test", "check"])
def test_make_has_the_targets_of_the_readme(target):
    assert f"make {target}" in README
    command = ["make", "--dry-run", "--always-make", target]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if target == "run":
        assert "--editable '.[train]'" in printed
        assert "--group" not in printed
        assert "keras-lenet run pipelines/quickstart.toml\n" in printed
    else:
        assert "bin/pytest" in printed


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("keras-lenet ")])
def test_command_of_the_readme_runs(line, finished, tmp_path):
    """Recipes are replaced by the smoke recipe, and runs and model files by its finished run."""
    if line.startswith("keras-lenet draw"):
        assert "Draw at http://" in draw_until_interrupted(line, tmp_path)
        return
    Image.fromarray(draw_digits(8, 0)[0][7]).save(tmp_path / "photo.jpg")
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    run = finished.copy(tmp_path / "runs") and tmp_path / "runs" / "smoke"
    (tmp_path / "my.keras").symlink_to(run / "train" / "model.keras")
    (tmp_path / "my.tflite").symlink_to(run / "export" / "lenet5_int8.tflite")
    (run.parent / "mnist").symlink_to(run)
    (run.parent / "quickstart").symlink_to(run)
    _, *arguments = shlex.split(re.sub(r"pipelines/\w+\.toml", str(SMOKE), line))
    dataset = finished.arguments[-1].removeprefix("data.dataset=")
    if SMOKE.name in line or str(SMOKE) in arguments:
        arguments += ["--set", f"data.dataset={dataset}"]
    elif "evaluate" in line:
        arguments += ["--dataset", dataset]
    result = keras_lenet(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def draw_until_interrupted(line, folder):
    """Start the drawing page's server, and return its first line once it listens."""
    arguments = [*shlex.split(line)[1:], "--port", "0", "--no-browser"]
    command = [sys.executable, "-u", "-m", "keras_lenet", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        first = server.stdout.readline()
        server.send_signal(signal.SIGINT)
    return first
