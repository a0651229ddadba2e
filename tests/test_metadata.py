import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import PIPELINES, draw_digits
from hypothesis import given
from hypothesis import strategies as st

from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.tflite import metadata_writer

DESCRIBED = metadata_writer.describe("lenet5", "Handwritten digits", "1.2.3", "someone", 0.5)


def test_what_is_written_is_read_back():
    assert metadata.decode(metadata_writer.encode(DESCRIBED)) == DESCRIBED


def test_the_flatbuffer_has_the_layout_of_the_schema():
    """Decoded by hand: root offset, identifier, vtable, first slot."""
    content = metadata_writer.encode({"name": "abc"})
    (root,) = struct.unpack_from("<I", content)
    assert content[4:8] == b"M001"
    (distance,) = struct.unpack_from("<i", content, root)
    (slot,) = struct.unpack_from("<H", content, root - distance + 4)
    (offset,) = struct.unpack_from("<I", content, root + slot)
    string = root + slot + offset
    assert content[string : string + 7] == b"\x03\x00\x00\x00abc"


def test_an_unknown_field_is_our_own_mistake():
    with pytest.raises(ValueError, match="ModelMetadata has no field nmae"):
        metadata_writer.encode({"nmae": "x"})


@pytest.fixture(scope="module")
def exported():
    return (PIPELINES.parent / "exported" / "lenet5_int8.tflite").read_bytes()


def test_exported_files_describe_themselves(exported):
    found = metadata.read(exported)
    assert found["name"] == "lenet5"
    (graph,) = found["subgraph_metadata"]
    (image,), (scores,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert image["content"]["content_properties"]["color_space"] == 2  # GRAYSCALE
    assert image["process_units"][0]["options"] == {"mean": [0.0], "std": [255.0]}
    (labels,) = scores["associated_files"]
    assert metadata_writer.files(exported)[labels["name"]].decode().split() == list("0123456789")


def test_metadata_changes_no_output(exported, tmp_path):
    images = draw_digits(30, 5)[0]
    described = metadata_writer.attach(exported, DESCRIBED, {"labels.txt": b"x"})
    for name, content in (("before", exported), ("after", described)):
        (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(
        Classifier(tmp_path / "after").raw(images), Classifier(tmp_path / "before").raw(images)
    )
    assert metadata.read(described) == DESCRIBED
    assert metadata_writer.files(described) == {"labels.txt": b"x"}
    (entry,) = zipfile.ZipFile(io.BytesIO(described)).infolist()
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)  # the same bytes on any day


def test_every_buffer_lies_where_a_microcontroller_can_read_it(exported):
    model = schema.Model.GetRootAs(exported, 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [
        buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()
    ]
    assert len(places) >= 10
    assert all(place % 16 == 0 for place in places)


@given(st.binary(max_size=200))
def test_damaged_metadata_raises_nothing_else(content):
    for data in (content, struct.pack("<I", 8) + b"M001" + content):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            metadata.decode(data)


def test_damaged_metadata_is_named(exported):
    position = exported.index(b"M001") - 4
    broken = exported[:position] + b"\xff\xff\xff\x7f" + exported[position + 4 :]
    with pytest.raises(Error, match="metadata is damaged"):
        metadata.read(broken)


def test_a_file_without_metadata(exported):
    bare = exported.replace(metadata.ENTRY.encode(), b"SOME_OTHER_NAME")
    assert metadata.read(bare) is None
    assert metadata_writer.files(b"no zip") == {}


def shared_offsets(width: int) -> bytes:
    """A graph's outputs, each of them one and the same, with process units, likewise."""
    content = bytearray(struct.pack("<I", 8) + b"M001")
    vector = None
    for slot in (3, 3, 4):  # subgraph_metadata, output_tensor_metadata, process_units
        vtable = len(content)
        content += struct.pack("<HH", 6 + 2 * slot, 8) + bytes(2 * slot) + struct.pack("<H", 4)
        content += bytes(-len(content) % 4)
        table = len(content)
        if vector is None:
            struct.pack_into("<I", content, 0, table)
        else:
            for i in range(width):
                place = vector + 4 + 4 * i
                struct.pack_into("<I", content, place, table - place)
        content += struct.pack("<iI", table - vtable, 4)  # the vector comes right behind
        vector = len(content)
        content += struct.pack("<I", width) + bytes(4 * width)
    for i in range(width):  # the units are tables without fields
        place = vector + 4 + 4 * i
        struct.pack_into("<I", content, place, len(content) + 4 - place)
    return bytes(content + struct.pack("<HHi", 4, 4, 4))


def test_offsets_may_share_but_not_multiply_what_they_point_to():
    """A hundredth of a megabyte would stand for 10^9 values."""
    few = metadata.decode(shared_offsets(10))
    (output, *_) = few["subgraph_metadata"][9]["output_tensor_metadata"]
    assert output["process_units"] == [{}] * 10
    assert len(shared_offsets(1000)) < 13_000
    with pytest.raises(ValueError, match="more than 131072 values"):
        metadata.decode(shared_offsets(1000))


def test_an_appended_file_that_unpacks_to_more_is_refused(exported):
    whole = io.BytesIO()
    whole.write(exported)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more", bytes(1 << 24))
    with pytest.raises(Error, match="not plainly stored"):
        metadata_writer.files(whole.getvalue())


@given(st.data())
def test_damaged_appended_files_raise_nothing_else(data):
    whole = bytearray(metadata_writer._append_files(b"model" * 10, {"a": b"b" * 40, "c": b"d"}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Error):
        metadata_writer.files(bytes(whole))
