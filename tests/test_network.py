"""Downloads from servers that truncate, stall, lie, and are busy."""

import hashlib
import multiprocessing
import signal
import time

import pytest
from faulty import FAULTS, Faulty

from keras_lenet.data import network
from keras_lenet.errors import Error

CONTENT = hashlib.sha512(b"content").digest() * 2000  # 128 kB


def verify(path):
    if path.read_bytes() != CONTENT:
        raise Error("checksum mismatch")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(network, "BACK_OFF", 0.0)
    monkeypatch.setattr(network, "STALL_SECONDS", 0.3)


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
    network.download([bad.url, server.url], path, verify)
    bad.close()
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.gz"]


@pytest.mark.parametrize("fault", ["truncates", "stalls", "is busy", "hangs up", "declares more"])
def test_what_may_pass_is_tried_again(server, path, fault):
    server.faults = [fault]
    network.download([server.url], path, verify)
    assert path.read_bytes() == CONTENT
    assert len(server.log) == 2


def test_what_has_arrived_is_not_fetched_again(server, path):
    server.faults = ["truncates", "truncates", "is busy"]
    network.download([server.url], path, verify)
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_what_is_left_of_an_attempt_that_failed_is_gone_on_from(server, path):
    server.faults = ["truncates", *["is busy"] * (network.ATTEMPTS - 1)]
    with pytest.raises(Error, match=r"file.gz could not be downloaded: .*503"):
        network.download([server.url], path, verify)
    assert not path.exists()
    network.download([server.url], path, verify)
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_the_beginning_of_something_else_is_thrown_away(server, path):
    server.content = b"older" * 100
    server.faults = ["truncates", *["is busy"] * (network.ATTEMPTS - 1)]
    with pytest.raises(Error):
        network.download([server.url], path, verify)
    server.content = CONTENT
    network.download([server.url], path, verify)
    assert path.read_bytes() == CONTENT


def test_attempts_are_bounded_and_further_and_further_apart(server, path, monkeypatch):
    waits = []
    monkeypatch.setattr(network, "BACK_OFF", 0.5)
    monkeypatch.setattr(time, "sleep", waits.append)
    server.faults = ["is busy"] * 100
    with pytest.raises(Error, match="503"):
        network.download([server.url], path, verify)
    assert len(server.log) == network.ATTEMPTS
    assert waits == [0.5, 1.0, 2.0]


def test_what_no_waiting_helps_against_is_not_tried_again(server, path):
    server.faults = ["has nothing"]
    with pytest.raises(Error, match="404"):
        network.download([server.url], path, verify)
    assert len(server.log) == 1


def test_more_than_any_file_has_is_not_taken(server, path, monkeypatch):
    monkeypatch.setattr(network, "MAX_BYTES", 1000)
    with pytest.raises(Error, match="more than 1,000 bytes"):
        network.download([server.url], path, verify)
    assert list(path.parent.iterdir()) == []


def test_a_trickle_is_given_up(server, path, monkeypatch):
    monkeypatch.setattr(network, "SLOWEST", 10**15)
    monkeypatch.setattr(network, "ATTEMPTS", 1)  # each gets a chunk further, and one would end
    monkeypatch.setattr(network, "STALL_SECONDS", 0)
    monkeypatch.setattr(network, "_open", open_after(network._open, 0.3))
    with pytest.raises(Error, match="slower than"):
        network.download([server.url], path, verify)


def open_after(opener, timeout):
    return lambda url, _, start=0: opener(url, timeout, start)


def test_a_busy_mirror_is_one_that_can_be_reached(server):
    server.faults = ["is busy"]
    assert network.reachable([server.url]) == [server.url]


def test_a_full_disk_is_not_blamed_on_the_mirror(server, path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(network, "_get_rest", full)
    with pytest.raises(OSError, match="No space left"):
        network.download([server.url, server.url], path, verify)


def fetch(url, path):
    network.download([url], path, verify)


def test_a_killed_download_goes_on_from_what_it_had(path):
    server = Faulty(CONTENT, stall=60)
    server.faults = ["stalls"]
    process = multiprocessing.get_context("spawn").Process(target=fetch, args=(server.url, path))
    process.start()
    partial = f".{path.stem}.*.partial.gz"
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in path.parent.glob(partial)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    fetch(server.url, path)
    server.close()
    assert path.read_bytes() == CONTENT
    assert server.log[1][1] > 0
