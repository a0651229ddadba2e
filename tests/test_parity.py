import importlib.util

import numpy as np
import pytest
from conftest import draw_digits, keras_lenet, write_dataset

from keras_lenet.edge import inspection, parity
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error

MICRO = importlib.util.find_spec("tflite_micro")


@pytest.fixture(scope="module")
def path(finished):
    return finished.folder / "export" / "microcontroller" / "lenet5_int8.tflite"


def test_every_kernel_set_is_compared(path):
    images, _ = draw_digits(40, 7)
    found = parity.compare(path, images)
    expected = ["xnnpack", "builtin", "reference"]
    if MICRO:
        expected.append("micro")
    assert [row.kernels for row in found] == expected
    assert all(row.largest <= parity.softmax_bound(path) for row in found)


def test_the_bound_is_what_a_tie_can_make_of_one_unit(path):
    """Against the softmax itself: two logits that tie, each moved by one unit."""
    softmax = next(op for op in inspection.inspect(path).ops if op.name == "SOFTMAX")
    scale = softmax.inputs[0].scale
    moved = 256 * (1 / (1 + np.exp(-2 * scale)) - 0.5)
    assert moved <= parity.softmax_bound(path) <= moved + 4


@pytest.mark.skipif(not MICRO, reason="tflite-micro is not installed: x86-64 Linux alone has it")
def test_the_microcontroller_interpreter_answers_as_the_reference_kernels(path):
    images, _ = draw_digits(40, 7)
    outputs, arena = parity.run_micro(path, Classifier(path).quantize(images))
    np.testing.assert_array_equal(outputs, Classifier(path, kernels="reference").raw(images))
    assert 5_880 <= arena <= 12_000


def test_differences_are_counted_and_listed():
    expected = np.zeros((3, 10), np.int8)
    expected[:, 4] = 100
    outputs = expected.copy()
    outputs[1, 4] = 99
    outputs[2, 7] = 101
    row = parity._compared("builtin", outputs, expected)
    assert (row.largest, row.unequal, len(row.flips)) == (101, 2, 1)
    table = parity.markdown([row])
    assert "| builtin | 1 | 101 | 2 |  |" in table
    assert "image 2: 7 (101) instead of 4 (100)" in table


def test_a_float_file_has_no_units_to_compare(finished):
    with pytest.raises(Error, match="float32; parity is between int8 or uint8"):
        parity.compare(
            finished.folder / "export" / "lenet5_float32.tflite", np.zeros((1, 28, 28), np.uint8)
        )


def test_the_command_prints_the_table(path, tmp_path):
    folder = write_dataset(tmp_path, 20, 20)
    result = keras_lenet("parity", path, "--dataset", folder)
    assert result.returncode == 0, result.stderr
    assert "| reference | " in result.stdout
