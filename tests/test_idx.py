import contextlib
import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from keras_lenet.data import idx
from keras_lenet.errors import Error


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_what_is_written_is_read_back(tmp_path, name):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    idx.write(tmp_path / name, images)
    np.testing.assert_array_equal(idx.read(tmp_path / name, 3), images)


def test_bytes_are_those_of_the_format(tmp_path):
    idx.write(tmp_path / "labels", np.array([7, 2], np.uint8))
    assert (tmp_path / "labels").read_bytes() == bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 2])


def test_a_gz_is_compressed_and_has_no_date_in_its_header(tmp_path):
    idx.write(tmp_path / "labels.gz", np.array([7, 2], np.uint8))
    content = (tmp_path / "labels.gz").read_bytes()
    assert content[:3] == bytes([0x1F, 0x8B, 8])
    assert content[4:8] == bytes(4)
    assert gzip.decompress(content) == bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 2])


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_every_array_survives(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    np.testing.assert_array_equal(idx.parse(header + array.tobytes(), array.ndim), array)


@given(st.binary(max_size=64), st.sampled_from([1, 3]))
def test_any_bytes_are_read_as_declared_or_refused(content, dims):
    """Including those that begin as the format does."""
    for data in (content, bytes([0, 0, 8, dims]) + content):
        with contextlib.suppress(Error):
            array = idx.parse(data, dims)
            assert array.ndim == dims
            assert array.size == len(data) - 4 - 4 * dims


IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 2) + bytes(8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "magic number 00000803, found nothing"),
        (b"\x89PNG....", "magic number 00000803, found 89504e47"),
        (bytes([0, 0, 8, 1]) + IMAGES[4:], "found 00000801"),
        (IMAGES[:9], "truncated in its header, after 9 of 16 bytes"),
        (IMAGES[:-1], r"truncated: its header declares 2×2×2 = 8 bytes of data, it holds 7"),
        (IMAGES + b"x", "has bytes left over: its header declares 2×2×2 = 8 bytes of data"),
        (gzip.compress(IMAGES)[:-9], "damaged gzip"),
        (gzip.compress(IMAGES)[:20] + b"\xff" * 12, "damaged gzip"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28), "truncated: its header declares"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 0), "without any data"),
    ],
    ids=[
        "empty",
        "a picture",
        "labels",
        "header cut short",
        "cut short",
        "too long",
        "gzip cut short",
        "gzip damaged",
        "too many declared",
        "no data, but sides",
    ],
)
def test_damage_is_named(tmp_path, content, complaint):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(Error, match=f"^{tmp_path}/images: .*{complaint}"):
        idx.read(tmp_path / "images", 3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(Error, match=r"nowhere: cannot be read \(No such file or directory\)"):
        idx.read(tmp_path / "nowhere", 3)


def test_a_small_file_that_inflates_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 4096)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(Error, match=r"bomb\.gz: larger than 4096 bytes"):
        idx.read(tmp_path / "bomb.gz", 3)


def test_the_largest_file_is_read_and_a_byte_more_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 4096)
    monkeypatch.setattr(idx, "_CHUNK", 1000)
    content = np.random.default_rng(0).bytes(4096 + 1024)
    path = tmp_path / "file"
    path.write_bytes(content[:-1])
    assert idx.read_bytes(path) == content[:-1]
    path.write_bytes(content)
    with pytest.raises(Error, match="larger than 4096 bytes"):
        idx.read_bytes(path)


def test_an_uncompressed_file_is_mapped(tmp_path):
    path = tmp_path / "images"
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    idx.write(path, array)
    found = idx.read(path, 3)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Error, match=f"{path}: truncated: its header declares 2×3×4 = 24 bytes of"):
        idx.read(path, 3)
    with pytest.raises(Error, match=f"{tmp_path}/nowhere: cannot be read .No such file"):
        idx.read(tmp_path / "nowhere", 3)


def test_errors_name_what_was_expected_in_words():
    for dims, words in (
        (1, "with 1 dimension: expected"),
        (2, "with 2 dimensions: expected"),
    ):
        with pytest.raises(Error, match=f"^IDX data: not an IDX file of .*{words} magic number"):
            idx.parse(b"", dims)
    with pytest.raises(Error, match="declares 4294967295×4294967295×0, without any data"):
        idx.parse(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 0), 3)
    assert idx.parse(bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 28, 28), 3).shape == (0, 28, 28)


def test_what_a_header_declares_is_not_allocated():
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28) + bytes(1000)
    tracemalloc.start()
    with pytest.raises(Error):
        idx.parse(content, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000
