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

from keras_lenet.data import catalogue, reading
from keras_lenet.errors import Error

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(*shape, data=None):
    """The bytes of an IDX file; `data` is zeros by default."""
    data = bytes(int(np.prod(shape))) if data is None else bytes(data)
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("shape", [(2,), (2, 3, 4)])
def test_an_uncompressed_file_is_mapped(tmp_path, name, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_idx(tmp_path / name, array)
    found = reading.read(tmp_path / name, len(shape))
    np.testing.assert_array_equal(found, array)
    assert isinstance(found, np.memmap) == (name == "file")
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@given(st.binary(max_size=64), st.sampled_from([1, 3]))
def test_any_bytes_are_read_as_declared_or_refused(content, dims):
    for data in (content, bytes([0, 0, 8, dims]) + content):
        with contextlib.suppress(Error):
            array = reading.parse(data, dims)
            assert array.ndim == dims
            assert array.size == len(data) - 4 - 4 * dims


GOOD = idx(2, 2, 2)
PACKED = gzip.compress(GOOD, mtime=0)
HEADER = "truncated, empty or too long: its header declares"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "3 dimensions: expected a header of 16 bytes that begins with 00000803, found nothi"),
        (b"\x89PNG....", "begins with 00000803, found 89504e47"),
        (bytes([0, 0, 8, 1]) + GOOD[4:], "found 00000801"),
        (GOOD[:9], "found 000008030000000200$"),
        (GOOD[:-1], f"{HEADER} 2×2×2 = 8 bytes of data, it holds 7"),
        (GOOD + b"x", f"{HEADER} 2×2×2 = 8 bytes of data, it holds 9"),
        (PACKED[:-9], "damaged gzip"),
        (PACKED[:20] + b"\xff" * 12, "damaged gzip"),
        (PACKED[:-8] + bytes(8), "damaged gzip"),
        (gzip.compress(GOOD[:-1], mtime=0), f"{HEADER} 2×2×2"),
        (idx(2**31, 28, 28, data=b""), HEADER),
        (idx(2**32 - 1, 2**32 - 1, 0, data=b""), HEADER),
        (idx(0, 28, 28), HEADER),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(Error, match=f"^{tmp_path}/images: .*{complaint}"):
        reading.read(path, 3)


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(Error, match=r"nowhere: cannot be read \(No such file or directory\)"):
        reading.read(tmp_path / "nowhere", 3)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_files_are_read_up_to_a_limit_which_bounds_memory(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    content = np.random.default_rng(0).bytes(1 << 20)
    path = tmp_path / "file"
    path.write_bytes(pack(content))
    assert reading.read_bytes(path) == content
    path.write_bytes(pack(bytes(20 << 20)))
    tracemalloc.start()
    with pytest.raises(Error, match=f"{path}: larger than 1048576 bytes"):
        reading.read_bytes(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


@pytest.mark.parametrize(("split", "count", "seed"), [("train", 400, 1), ("test", 100, 2)])
def test_a_folder_is_read_mapped_or_not(synthetic, mapped, split, count, seed):
    images, labels = draw_digits(count, seed)
    for folder in (synthetic, mapped):
        data = reading.load(str(folder), split)
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
    for wrong in range(2):
        files = list(dataset.files[split])
        files[wrong] = replace(files[wrong], count=1234)
        changed = replace(dataset, files={split: tuple(files)})
        monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", changed)
        with pytest.raises(Error, match=f"{files[wrong].name}.gz: expected 1,234 items, found 20"):
            reading.load("emnist_digits", split, tmp_path)


@pytest.mark.parametrize(
    ("name", "ending", "complaint"),
    [
        ("mnist", "", "checksum mismatch: expected sha256 ba891046e6505d7a…, found [0-9a-f]{16}…;"),
        ("mnist", ".gz", "checksum mismatch: expected sha256 ba891046e6505d7a…, found"),
        ("fashion_mnist", ".gz", "checksum mismatch: expected sha256 c59f468a2f672dc8…, found"),
        ("kmnist", "", f"kmnist: {IMAGES}.gz is not in"),
        ("kmnist", ".gz", "checksum mismatch: expected sha256 51467d22d8cc7292…, found"),
        ("emnist_digits", "", "expected 240,000 items, found 50"),
    ],
)
def test_other_images_under_a_published_name_are_refused(tmp_path, name, ending, complaint):
    arrays = draw_digits(50, 0)
    for file, array in zip(catalogue.DATASETS[name].files["train"], arrays, strict=True):
        write_idx(tmp_path / name / f"{file.name}{ending}", array)
    with pytest.raises(Error, match=complaint):
        reading.load(name, "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (LABELS, idx(3), f"{IMAGES}.gz holds 20 images but .*{LABELS} 3 labels"),
        (LABELS, idx(20, data=[9] * 19 + [10]), f"{LABELS}: expected labels 0 to 9, found 10"),
        (IMAGES, idx(20, 32, 28), "expected 28×28 images, found 20×32×28"),
        (IMAGES, idx(20, 28, 32), "expected 28×28 images, found 20×28×32"),
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


def test_a_missing_file_is_an_error_that_names_the_folders_searched(tmp_path):
    cache = catalogue.cache_dir() / "mnist"
    expected = f"mnist: {IMAGES} or {IMAGES}.gz is not in {tmp_path}/mnist and {cache}"
    with pytest.raises(Error, match=f"^{expected}$"):
        reading.load("mnist", "train", tmp_path)
