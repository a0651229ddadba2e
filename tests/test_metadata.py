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


@pytest.mark.parametrize("more", [{}, {"associated_files": [{"name": "a"}, {"name": "b"}]}])
def test_what_is_written_is_read_back(more):
    assert metadata.decode(metadata_writer.encode(DESCRIBED | more)) == DESCRIBED | more


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


def test_published_files_have_this_description(exported):
    found = metadata.read(exported)
    threshold = metadata.score_threshold(exported)
    assert found == metadata_writer.describe(
        "lenet5", found["description"], found["version"], "keras_lenet", threshold
    )
    assert metadata_writer.labels(exported) == list("0123456789")


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


def test_a_new_description_replaces_the_old_one_in_aligned_buffers(exported):
    """As microcontrollers read them, in place."""
    described = metadata_writer.attach(exported, DESCRIBED, {})
    model = schema.Model.GetRootAs(described, 0)
    names = [model.Metadata(i).Name() for i in range(model.MetadataLength())]
    assert names.count(metadata.ENTRY.encode()) == 1
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [one._tab.Vector(one._tab.Offset(4)) for one in buffers if one.DataLength()]
    assert len(places) >= 10
    assert all(place % 16 == 0 for place in places)


@given(st.binary(max_size=200))
def test_damaged_metadata_raises_nothing_else(content):
    for data in (content, struct.pack("<I", 8) + b"M001" + content):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            metadata.decode(data)


def test_damaged_metadata_is_named(exported):
    position = exported.index(b"M001") - 4
    for place, content in ((0, b"\xff\xff\xff\x7f"), (4, b"M002")):  # root, identifier
        broken = bytearray(exported)
        broken[position + place : position + place + 4] = content
        with pytest.raises(Error, match="metadata is damaged"):
            metadata.read(bytes(broken))


def test_a_file_without_metadata(exported):
    bare = exported.replace(metadata.ENTRY.encode(), b"SOME_OTHER_NAME")
    assert metadata.read(bare) is None
    model = schema.ModelT.InitFromPackedBuf(exported, 0)
    model.metadata = None
    assert metadata.read(metadata_writer.pack(model)) is None
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


@pytest.mark.parametrize("size", [10, 1 << 24])
def test_an_appended_file_that_is_compressed_is_refused(exported, size):
    whole = io.BytesIO()
    whole.write(exported)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more", bytes(size))
    with pytest.raises(Error, match="not plainly stored"):
        metadata_writer.files(whole.getvalue())


@given(st.data())
def test_damaged_appended_files_raise_nothing_else(data):
    whole = bytearray(metadata_writer._append_files(b"model" * 10, {"a": b"b" * 40, "c": b"d"}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Error):
        metadata_writer.files(bytes(whole))
