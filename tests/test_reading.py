"""IDX files, good and damaged, and the splits read from them."""

import contextlib
import gzip
import hashlib
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_digits, write_dataset, write_emnist, write_idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from keras_lenet.data import catalogue, reading
from keras_lenet.errors import Error

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(*shape, data=None):
    """The bytes of an IDX file; `data` is zeros by default."""
    data = bytes(int(np.prod(shape))) if data is None else bytes(data)
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("shape", [(2,), (2, 3, 4)])
def test_a_file_is_read_back_and_mapped_where_it_is_not_compressed(tmp_path, name, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_idx(tmp_path / name, array)
    found = reading.read(tmp_path / name, len(shape))
    np.testing.assert_array_equal(found, array)
    assert isinstance(found, np.memmap) == (name == "file")
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_every_array_survives(array):
    content = idx(*array.shape, data=array.tobytes())
    np.testing.assert_array_equal(reading.parse(content, array.ndim), array)


@given(st.binary(max_size=64), st.sampled_from([1, 3]))
def test_any_bytes_are_read_as_declared_or_refused(content, dims):
    for data in (content, bytes([0, 0, 8, dims]) + content):
        with contextlib.suppress(Error):
            array = reading.parse(data, dims)
            assert array.ndim == dims
            assert array.size == len(data) - 4 - 4 * dims


GOOD = idx(2, 2, 2)
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            b"",
            "not an IDX file of uint8 with 3 dimensions: expected magic number 00000803, found n",
        ),
        (b"\x89PNG....", "magic number 00000803, found 89504e47"),
        (bytes([0, 0, 8, 1]) + GOOD[4:], "found 00000801"),
        (GOOD[:9], "truncated in its header, after 9 of 16 bytes"),
        (GOOD[:-1], r"truncated: its header declares 2×2×2 = 8 bytes of data, it holds 7"),
        (GOOD + b"x", "has bytes left over: its header declares 2×2×2 = 8 bytes of data, it hol"),
        (PACKED[:-9], "damaged gzip"),
        (PACKED[:20] + b"\xff" * 12, "damaged gzip"),
        (PACKED[:-8] + bytes(8), "damaged gzip"),
        (
            gzip.compress(GOOD[:-1], mtime=0),
            "truncated: its header declares 2×2×2 = 8 bytes of data",
        ),
        (idx(2**31, 28, 28, data=b""), "truncated: its header declares"),
        (idx(2**32 - 1, 2**32 - 1, 0, data=b""), "4294967295×4294967295×0, without any data"),
        (idx(0, 28, 28), "its header declares 0×28×28, without any data"),
    ],
)
def test_damage_is_named(tmp_path, content, complaint):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(Error, match=f"^{tmp_path}/images: .*{complaint}"):
        reading.read(tmp_path / "images", 3)
    if content[:2] != b"\x1f\x8b":
        with pytest.raises(Error, match=f"^IDX data: .*{complaint}"):
            reading.parse(content, 3)


def test_one_dimension_is_named_in_the_singular():
    with pytest.raises(Error, match="with 1 dimension: expected magic number 00000801"):
        reading.parse(b"", 1)


def test_an_unreadable_file_is_named(tmp_path):
    for read in (lambda path: reading.read(path, 3), reading.read_bytes):
        with pytest.raises(Error, match=r"nowhere: cannot be read \(No such file or directory\)"):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize("chunk", [1000, 4096, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_up_to_the_limit(tmp_path, monkeypatch, chunk, packed):
    monkeypatch.setattr(reading, "MAX_BYTES", 4096)
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    pack = gzip.compress if packed else bytes
    content = np.random.default_rng(0).bytes(4097)
    path = tmp_path / "file"
    path.write_bytes(pack(content[:-1]))
    assert reading.read_bytes(path) == content[:-1]
    for large in (content, bytes(1 << 20)):
        path.write_bytes(pack(large))
        with pytest.raises(Error, match=f"{path}: larger than 4096 bytes"):
            reading.read_bytes(path)


@pytest.mark.parametrize("packed", [False, True])
def test_memory_is_bounded_by_the_file_and_by_the_limit(tmp_path, monkeypatch, packed):
    """Neither a header's declaration nor a small file that inflates without end is allocated."""
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    content = idx(2**31, 28, 28, data=bytes(1000))
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content + bytes(20 << 20)) if packed else content)
    tracemalloc.start()
    with pytest.raises(Error):
        reading.read(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (6 << 20 if packed else 100_000)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_is_read_mapped_or_not(synthetic, mapped, split):
    for folder in (synthetic, mapped):
        data = reading.load(str(folder), split)
        images, labels = draw_digits(*((400, 1) if split == "train" else (100, 2)))
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
        assert isinstance(data.images, np.memmap) == (folder == mapped)


@pytest.mark.mnist
def test_the_real_mnist_is_verified(mnist_dir):
    for split, count in (("train", 60_000), ("test", 10_000)):
        data = reading.load("mnist", split, mnist_dir)
        assert data.images.shape == (count, 28, 28)
        assert data.labels.shape == (count,)
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_have_their_known_bytes(split):
    data = reading.load("digits", split)
    content = data.images.tobytes() + data.labels.tobytes()
    assert hashlib.sha256(content).hexdigest() == catalogue.identity("digits", split, None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_emnist_is_turned_upright_and_counted(tmp_path, monkeypatch, split):
    upright = write_emnist(tmp_path / "emnist_digits", monkeypatch)
    loaded = reading.load("emnist_digits", split, tmp_path)
    np.testing.assert_array_equal(loaded.images, upright)
    dataset = catalogue.DATASETS["emnist_digits"]
    for kind in ("images", "labels"):
        files = {name: replace(file, count=1234) for name, file in getattr(dataset, kind).items()}
        monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", replace(dataset, **{kind: files}))
        complaint = f"{files[split].name}.gz: expected the 1,234 {kind} that are published, found 2"
        with pytest.raises(Error, match=complaint):
            reading.load("emnist_digits", split, tmp_path)


@pytest.mark.parametrize(
    ("name", "ending", "complaint"),
    [
        ("mnist", "", "checksum mismatch: expected sha256 ba891046e6505d7a…, found [0-9a-f]{16}…;"),
        ("mnist", ".gz", "checksum mismatch: expected sha256 ba891046e6505d7a…, found"),
        ("fashion_mnist", "", "checksum mismatch: expected sha256 c59f468a2f672dc8…, found"),
        ("fashion_mnist", ".gz", "checksum mismatch: expected sha256 c59f468a2f672dc8…, found"),
        ("kmnist", "", r"images-idx3-ubyte\.gz is not in .* uncompressed copy does not count"),
        ("kmnist", ".gz", "checksum mismatch: expected sha256 51467d22d8cc7292…, found"),
        ("emnist_digits", "", "expected the 240,000 images that are published, found 50"),
        ("emnist_digits", ".gz", "expected the 240,000 images that are published, found 50"),
    ],
)
def test_other_images_under_a_published_name_are_refused(tmp_path, name, ending, complaint):
    arrays = draw_digits(50, 0)
    for file, array in zip(catalogue.DATASETS[name].files("train"), arrays, strict=True):
        write_idx(tmp_path / name / f"{file.name}{ending}", array)
    with pytest.raises(Error, match=complaint):
        reading.load(name, "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (LABELS, idx(3), f"{IMAGES}.gz holds 20 images but .*{LABELS} 3 labels"),
        (LABELS, idx(20, data=[9] * 19 + [10]), f"{LABELS}: expected labels 0 to 9, found 10"),
        (IMAGES, idx(20, 32, 28), "one or more 28×28 images, found 20×32×28"),
        (IMAGES, idx(20, 28, 32), "one or more 28×28 images, found 20×28×32"),
        (IMAGES, idx(20, 28, 28)[:-5], "truncated"),
        (IMAGES, b"<html>404</html>", "not an IDX file"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, content, complaint):
    write_dataset(tmp_path, 20, 20)
    for path in tmp_path.glob(f"{name}*"):
        path.unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Error, match=complaint):
        reading.load(str(tmp_path), "train")


def test_missing_files_are_named_with_the_folders_searched(tmp_path):
    cache = catalogue.cache_dir()

    def complaint(name, data_dir):
        with pytest.raises(Error) as raised:
            reading.load(name, "train", data_dir)
        return str(raised.value)

    missing = f"{IMAGES}[.gz] is not in"
    assert complaint("mnist", tmp_path) == f"mnist: {missing} {tmp_path}/mnist and {cache}/mnist"
    assert complaint("mnist", None) == f"mnist: {missing} {cache}/mnist"
    assert complaint(str(tmp_path), None) == f"{tmp_path}: {missing} {tmp_path}"
    assert complaint("kmnist", None) == (
        f"kmnist: {IMAGES}.gz is not in {cache}/kmnist; an uncompressed copy does "
        "not count, since no digest of it is published"
    )
    write_dataset(tmp_path / "mnist", 20, 20)
    (tmp_path / "mnist" / LABELS).unlink()
    assert complaint("mnist", tmp_path).startswith(f"mnist: {LABELS}[.gz] is not in")
