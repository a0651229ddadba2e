"""Downloads from servers that truncate, stall, lie, and are busy."""

import hashlib
import time
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from conftest import write_dataset, write_emnist, write_idx
from faulty import FAULTS, Faulty

from keras_lenet import artifacts
from keras_lenet.data import catalogue, download, reading
from keras_lenet.errors import Error

CONTENT = hashlib.sha512(b"content").digest() * 2000  # 128 kB


def verify(path):
    if path.read_bytes() != CONTENT:
        raise Error("checksum mismatch")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Not `time.sleep` itself: the server stalls with it.
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(download, "TIMEOUT", (0.3, 0.3))


@pytest.fixture
def server():
    opened = Faulty(CONTENT)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.gz"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_mirror_is_tried_after_a_lasting_fault(server, path, fault):
    bad = Faulty(CONTENT, stall=30)
    bad.faults = [fault] * 100
    start = time.monotonic()
    download.fetch([bad.url, server.url], path, verify)
    bad.close()
    assert time.monotonic() - start < 15
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]
    assert 1 <= len(bad.log) <= 100


@pytest.mark.parametrize("fault", ["truncates", "stalls", "is busy", "hangs up", "declares more"])
def test_the_same_mirror_is_tried_again_after_a_passing_fault(server, path, fault):
    server.faults = [fault]
    download.fetch([server.url], path, verify)
    assert path.read_bytes() == CONTENT
    assert server.log == [fault, None]


def test_a_failed_download_names_each_mirror_and_keeps_the_old_file(server, path):
    path.write_bytes(b"before")
    server.faults = ["is busy"] * (1 + download.RETRIES) + ["serves other bytes"]
    with pytest.raises(Error) as caught:
        download.fetch([server.url, server.url], path, verify)
    assert str(caught.value).startswith(f"file.gz could not be downloaded: {server.url} (503")
    assert f"; {server.url} (checksum mismatch)" in str(caught.value)
    assert path.read_bytes() == b"before"
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]


def test_a_full_disk_is_not_blamed_on_the_mirror(server, path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(OSError, match="No space left"):
        download.fetch([server.url], path, verify)
    assert list(path.parent.iterdir()) == []


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folder of the second mirror of the dataset `tiny`; the first has nothing."""
    folder = tmp_path / "published"
    write_dataset(folder, 20, 20)
    for path in folder.glob("*-ubyte"):
        write_idx(path.with_name(f"{path.name}.gz"), reading.parse(path.read_bytes(), 1))
        path.unlink()
    server = Faulty(folder)
    mirror = f"{server.url.rpartition('/')[0]}/"
    mirrors = (f"{mirror}nothing-here/", mirror)
    know(monkeypatch, folder, lambda content, path: {"sha256": content}, mirrors)
    yield folder
    server.close()


def know(monkeypatch, folder, digests, mirrors):
    """Make the files in `folder` the dataset `tiny`, with digests of content and file."""

    def known(file):
        path = folder / f"{file.name}.gz"
        content = hashlib.sha256(reading.read_bytes(path)).hexdigest()
        return catalogue.File(file.name, **digests(content, artifacts.sha256(path)))

    mnist = catalogue.DATASETS["mnist"]
    files = {split: tuple(map(known, pair)) for split, pair in mnist.files.items()}
    tiny = replace(mnist, files=files, mirrors=mirrors)
    monkeypatch.setitem(catalogue.DATASETS, "tiny", tiny)


def cached(name):
    return catalogue.cache_dir() / "tiny" / name


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def test_a_download_fills_the_cache_and_clears_leftovers(published):
    cached(f"{artifacts.TEMPORARY}x").mkdir(parents=True)
    cached(f"{artifacts.TEMPORARY}x/part").touch()
    assert not catalogue.is_here("tiny", "train", None)
    download.download("tiny")
    assert catalogue.is_here("tiny", "train", None)
    assert catalogue.is_here("tiny", "test", None)
    assert len(reading.load("tiny", "train").images) == 20
    names = {path.name for path in published.iterdir()}
    assert {path.name for path in cached("").iterdir()} == {*names, ".lock"}


def test_a_bad_download_replaces_nothing(published):
    download.download("tiny")
    content = cached(IMAGES).read_bytes()
    cached(LABELS).unlink()
    write_idx(published / LABELS, np.zeros(20, np.uint8))
    with pytest.raises(Error, match=f"{LABELS} could not be .*checksum mismatch"):
        download.download("tiny")
    assert cached(IMAGES).read_bytes() == content
    assert not cached(LABELS).exists()
    assert not list(cached("").glob(f"{artifacts.TEMPORARY}*"))


def test_a_dataset_known_by_its_gz_is_read_from_the_published_gz_alone(published, monkeypatch):
    mirrors = catalogue.DATASETS["tiny"].mirrors
    know(monkeypatch, published, lambda content, gz: {"gz_sha256": gz}, mirrors)
    download.download("tiny")
    path, plain = cached(IMAGES), cached(IMAGES).with_suffix("")
    plain.write_bytes(content := reading.read_bytes(path))
    assert len(reading.load("tiny", "train").images) == 20
    write_idx(path, reading.parse(content, 3), level=1)
    with pytest.raises(Error, match=f"{path}: checksum mismatch"):
        reading.load("tiny", "train")
    path.unlink()
    assert not catalogue.is_here("tiny", "train", None)


def test_missing_files_are_unpacked_from_a_verified_zip_file(published, monkeypatch):
    upright = write_emnist(published, monkeypatch)
    names = {path.name for path in published.glob("emnist*")}
    with zipfile.ZipFile(published / "gzip.zip", "w") as archive:
        for name in names:
            archive.write(published / name, f"gzip/{name}")
    mirrors = tuple(f"{mirror}gzip.zip" for mirror in catalogue.DATASETS["tiny"].mirrors)
    zipped = replace(catalogue.DATASETS["emnist_digits"], mirrors=mirrors)
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", zipped)
    with pytest.raises(Error, match="its checksum is not the published one"):
        download.download("emnist_digits")
    assert not catalogue.is_here("emnist_digits", "train", None)
    known = replace(zipped, zip_sha256=artifacts.sha256(published / "gzip.zip"))
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", known)
    download.download("emnist_digits")
    for split in ("train", "test"):
        np.testing.assert_array_equal(reading.load("emnist_digits", split).images, upright)
    folder = catalogue.cache_dir() / "emnist_digits"
    kept, lost = (folder / name for name in sorted(names)[:2])
    content = lost.read_bytes()
    kept.write_bytes(b"kept")
    lost.unlink()
    download.download("emnist_digits")
    assert (kept.read_bytes(), lost.read_bytes()) == (b"kept", content)
    assert {path.name for path in folder.iterdir()} == {*names, ".lock"}


def test_only_known_and_missing_datasets_are_downloaded(tmp_path, monkeypatch):
    downloaded = []
    monkeypatch.setattr(download, "download", downloaded.append)
    write_dataset(tmp_path / "mnist", 20, 20)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    for name in ("mnist", "digits", str(tmp_path / "elsewhere")):
        download.obtain(name, "train", tmp_path)
    assert downloaded == []
    download.obtain("mnist", "test", tmp_path)
    assert downloaded == ["mnist"]
