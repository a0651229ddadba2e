"""Downloads from servers that truncate, stall, lie, and are busy."""

import hashlib
import time
from pathlib import Path

import pooch
import pytest
from faulty import FAULTS, Faulty

from keras_lenet.data import download
from keras_lenet.errors import Error

CONTENT = hashlib.sha512(b"content").digest() * 2000  # 128 kB


def verify(path):
    if path.read_bytes() != CONTENT:
        raise Error("checksum mismatch")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
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
def test_after_each_fault_the_next_mirror_has_it(server, path, fault):
    """Where the same mirror, tried again, does not help."""
    bad = Faulty(CONTENT)
    bad.faults = [fault] * 100
    download.fetch([bad.url, server.url], path, verify)
    bad.close()
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]
    assert 1 <= len(bad.log) <= 100


@pytest.mark.parametrize("fault", ["truncates", "stalls", "is busy", "hangs up", "declares more"])
def test_what_may_pass_is_tried_again(server, path, fault):
    server.faults = [fault]
    download.fetch([server.url], path, verify)
    assert path.read_bytes() == CONTENT
    assert len(server.log) == 2


def test_where_no_mirror_has_it_each_is_named_and_what_was_there_stays(server, path):
    path.write_bytes(b"before")
    server.faults = ["is busy"] * download.ATTEMPTS + ["serves other bytes"]
    with pytest.raises(Error) as caught:
        download.fetch([server.url, server.url], path, verify)
    assert str(caught.value).startswith(f"file.gz could not be downloaded: {server.url} (503")
    assert f"; {server.url} (checksum mismatch)" in str(caught.value)
    assert path.read_bytes() == b"before"
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]


def test_an_unreachable_mirror_is_given_up_within_seconds(server, path):
    server.close()
    with pytest.raises(Error, match=r"could not be downloaded: .*Connection refused"):
        download.fetch([server.url], path, verify)


def test_a_mirror_that_stalls_is_left(server, path):
    bad = Faulty(CONTENT, stall=30)
    bad.faults = ["stalls"] * download.ATTEMPTS
    start = time.monotonic()
    download.fetch([bad.url, server.url], path, verify)
    bad.close()
    assert time.monotonic() - start < 15


def test_what_comes_in_is_put_beside_its_place(server, path, monkeypatch):
    """A file can be renamed on one file system alone."""
    create, folders = pooch.create, []

    def seen(folder, *args, **settings):
        folders.append(Path(folder).parent)
        return create(folder, *args, **settings)

    monkeypatch.setattr(pooch, "create", seen)
    download.fetch([server.url], path, verify)
    assert folders == [path.parent]


def test_a_full_disk_is_not_blamed_on_the_mirror(server, path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(OSError, match="No space left"):
        download.fetch([server.url], path, verify)
    assert list(path.parent.iterdir()) == []


def test_progress_shows_the_bytes_that_have_come(server, path, monkeypatch):
    seen = []
    monkeypatch.setattr(download._Bar, "update", lambda bar, count: seen.append(count))
    download.fetch([server.url], path, verify)
    assert sum(seen) >= len(CONTENT)
