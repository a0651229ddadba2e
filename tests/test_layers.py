"""Where quantization loses."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import draw_digits

from keras_lenet.edge import metadata_writer
from keras_lenet.stages import layers


@pytest.fixture(scope="module")
def export(finished):
    return finished.folder / "export"


@pytest.fixture(scope="module")
def images():
    return draw_digits(50, 4)[0]


def test_every_op_has_its_losses(export, images):
    rows = layers.losses(
        export / "lenet5_float32.tflite", export / "lenet5_int8_ptq.tflite", images
    )
    names = layers.numbered(rows)
    assert names[:2] == ["RESIZE_BILINEAR", "CONV_2D 1"]
    assert len(rows) == 9
    assert all(row["sqnr_db"] > 15 for row in rows)
    assert [len(row["channels"] or []) for row in rows] == [0, 6, 0, 16, 0, 120, 84, 10, 0]
    for row in rows:
        assert 0 <= row["saturated"] < 0.2
        assert row["range"][0] <= 0 < row["range"][1]


def test_a_files_losses_against_itself_are_none(export, images):
    path = export / "lenet5_float32.tflite"
    rows = layers.losses(path, path, images)
    assert {row["sqnr_db"] for row in rows} == {None}
    assert layers.worst(rows) is None


def damage(path, position, target, factor):
    """Multiply the weight scales of the op at `position`."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    weights = graph.tensors[graph.operators[position].inputs[1]]
    weights.quantization.scale = weights.quantization.scale * factor
    packed = metadata_writer.pack(model)
    target.write_bytes(packed)
    return target


@pytest.mark.parametrize(("position", "name"), [
    (1, "CONV_2D 1"), (3, "CONV_2D 2"), (5, "CONV_2D 3"), (6, "FULLY_CONNECTED 1"),
    (7, "FULLY_CONNECTED 2"),
])  # fmt: skip
def test_a_damaged_layer_is_named(export, images, tmp_path, position, name):
    damaged = damage(
        export / "lenet5_int8_ptq.tflite", position, tmp_path / "damaged.tflite", np.float32(1.3)
    )
    rows = layers.losses(export / "lenet5_float32.tflite", damaged, images)
    assert layers.numbered(rows)[layers.worst(rows)] == name


def test_sqnr_of_known_noise():
    true = np.array([[3.0, 4.0]])
    assert layers.sqnr(true, true + np.array([[0.3, 0.4]])) == pytest.approx(20)
    assert layers.sqnr(true, true) is None


def test_what_can_be_compared(export):
    pair = export / "lenet5_float32.tflite", export / "microcontroller" / "lenet5_int8.tflite"
    assert layers.comparable(*pair)
    assert not layers.comparable(*reversed(pair))
    assert not layers.comparable(export / "saved_model", pair[1])
    assert not layers.comparable(pair[0], export / "lenet5_int8.tflite")  # of another layout
