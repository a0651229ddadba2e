"""One quantized file on every kernel set: what is counted, and what real interpreters answer."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_digits, is_installed, write_dataset
from small_nets import Net
from typer.testing import CliRunner

from keras_lenet.cli import app
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.tflite import parity

EXPORTED = Path(__file__).parents[1] / "exported"
REFERENCE = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"
MICRO = is_installed("tflite_micro")


@pytest.mark.needs("tflite_micro")
def test_the_reference_kernels_round_once_and_the_microcontrollers_twice(tmp_path):
    """Logits are half of -9, -7, … 9: once, ties go away from zero; of two, the first upwards."""
    scale = 128 * float(np.float32(1 / 255))
    net = Net().dense(np.zeros((10, 784), np.int8), np.arange(-9, 11, 2), 64.0, scale, 0)
    path = net.softmax().save(tmp_path / "tie.tflite")
    blank = np.zeros((1, 28, 28), np.uint8)
    reference = Classifier(path, kernels="reference").raw(blank)[0]
    micro, _ = parity.run_micro(path, Classifier(path).quantize(blank))
    for found, logits in (
        (reference, [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]),
        (micro[0], [-4, -3, -2, -1, 0, 1, 2, 3, 4, 5]),
    ):
        powers = np.exp(scale * np.array(logits))
        assert found.tolist() == (np.rint(256 * powers / powers.sum()) - 128).tolist()


def test_every_kernel_set_stays_within_the_bound():
    plain, *found = parity.compare(REFERENCE, draw_digits(40, 7)[0])
    assert plain == parity.Parity("xnnpack", (), 0, 0)
    assert [row.kernels for row in found] == ["builtin", "reference"] + ["micro"] * MICRO
    assert max(row.largest for row in found) <= parity.softmax_bound(REFERENCE)
    if MICRO:
        assert found[-1].arena == parity.arena(REFERENCE)[0]


@pytest.mark.parametrize(("scale", "bound"), [(0.25, 33), (0.1, 14), (1 / 64, 3)])
def test_the_bound_is_what_a_tie_can_make_of_one_unit(scale, bound, tmp_path):
    """A quarter of 512 · scale, rounded up, and one unit of rounding more."""
    net = Net().dense(np.zeros((10, 784), np.int8), None, 1.0, scale)
    path = net.softmax().save(tmp_path / "test.tflite")
    assert parity.softmax_bound(path) == bound
    # Two logits that tie, each moved by one unit: the softmax itself stays below.
    assert 256 * (1 / (1 + math.exp(-2 * scale)) - 0.5) <= bound


@pytest.mark.needs("tflite_micro")
def test_the_microcontroller_interpreter_computes_each_image_by_itself():
    images, _ = draw_digits(20, 7)
    inputs = Classifier(REFERENCE).quantize(images)
    outputs, arena = parity.run_micro(REFERENCE, inputs)
    assert outputs.shape == (20, 10)
    assert outputs.dtype == np.int8
    np.testing.assert_array_equal(outputs[7:8], parity.run_micro(REFERENCE, inputs[7:8])[0])
    assert (outputs.argmax(1) == Classifier(REFERENCE).raw(images).argmax(1)).all()
    assert 5_880 <= arena <= 12_000  # its activations at their peak, and the bookkeeping


@pytest.mark.needs("tflite_micro")
def test_a_model_that_the_interpreter_cannot_hold_is_named(tmp_path):
    wide = Net().conv(np.ones((120, 1, 1, 1), np.int8), None, 1.0).ten()
    path = wide.softmax().save(tmp_path / "wide.tflite")
    with pytest.raises(Error, match=r"wide.tflite: TensorFlow Lite Micro cannot run it: \S"):
        parity.run_micro(path, np.zeros((1, 28, 28, 1), np.int8))


@pytest.mark.needs("tflite_micro")
def test_arena_is_measured_or_else_estimated(monkeypatch):
    _, used = parity.run_micro(REFERENCE, np.zeros((1, 28, 28, 1), np.int8))
    how = f"TensorFlow Lite Micro used {used} bytes on a 64-bit host; a 32-bit core uses fewer"
    assert parity.arena(REFERENCE) == (used, how)
    monkeypatch.setattr(parity, "has_micro", lambda: False)
    how = "an estimate, twice the activations at their peak: tflite-micro was not installed"
    assert parity.arena(REFERENCE) == (2 * 5_880, how)


def test_differences_are_counted_and_listed(monkeypatch):
    """Three images: the same, one unit, another class."""
    expected = np.zeros((3, 10), np.int8)
    expected[:, 4] = 100
    outputs = expected.copy()
    outputs[1, 4] = 99
    outputs[2, 7] = 101
    answers = {"xnnpack": expected, "builtin": outputs, "reference": expected - 101}
    monkeypatch.setattr(parity, "has_micro", lambda: False)
    monkeypatch.setattr(Classifier, "raw", lambda self, images: answers[self.kernels])
    _, builtin, reference = parity.compare(REFERENCE, np.zeros((3, 28, 28), np.uint8))
    flip = "image 2: 7 (101) instead of 4 (100)"
    assert builtin == parity.Parity("builtin", (flip,), 101, 2)
    assert (reference.largest, reference.unequal) == (101, 3)


def test_a_float_file_has_no_units_to_compare():
    with pytest.raises(Error, match="expected int8 or uint8 outputs, found float32"):
        parity.compare(EXPORTED / "lenet5_float32.tflite", np.zeros((1, 28, 28), np.uint8))


def test_command_prints_the_table_and_the_flips(monkeypatch, tmp_path):
    rows = [
        parity.Parity("xnnpack", (), 0, 0),
        parity.Parity("builtin", ("image 2: …",), 101, 1234),
    ]
    rows.append(parity.Parity("micro", (), 1, 5, 9616))
    monkeypatch.setattr(parity, "compare", lambda path, images: rows[: 3 - len(images) % 2])
    for count, last in ((2, "One unit in the logits"), (3, "TensorFlow Lite Micro was not run")):
        folder = write_dataset(tmp_path / str(count), 20, count)
        result = CliRunner().invoke(app, ["parity", str(REFERENCE), "--dataset", str(folder)])
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["builtin", "1", "101", "1,234"] in lines
        assert (["micro", "0", "1", "5", "9616"] in lines) == (count == 2)
        assert "builtin, image 2: …" in result.stdout
        assert last in result.stdout
