"""Peers of a benchmark: each in a process of its own, whose failure is a row."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import measure
from measure import Peer, Row

PEERS = """
import os, signal

def answering(*seconds):
    def prepare():
        left = list(seconds)
        return lambda: left.pop(0)
    return prepare

two, four, four_eight = answering(*[2.0] * 9), answering(*[4.0] * 9), answering(*[4.0, 8.0] * 4)

def crashing(after):
    def repetition():
        nonlocal after
        after -= 1
        if after < 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        return 1.0
    return repetition

def missing():
    import no_such_package

def broken():
    raise RuntimeError("no such processor\\nmore")

def impatient():
    gives_up = iter([False, False, True, True])
    def repetition():
        if next(gives_up):
            raise TimeoutError(60.0)
        return 60.0
    return repetition

def counting(path):
    def repetition():
        with open(path, "a") as file:
            print(os.getpid(), file=file)
        return 1.0
    return repetition
"""


@pytest.fixture(autouse=True)
def peers(tmp_path, monkeypatch):
    (tmp_path / "peers.py").write_text(PEERS)
    monkeypatch.syspath_prepend(tmp_path)


def compare(*names, unit="s", work=1, **options):
    peers = [Peer(name, f"peers:{name}", goal=2.5) for name in names]
    return measure.compare("a case", unit, peers, work=work, **options)


def test_a_row_has_the_median_of_its_repetitions_and_of_their_ratios():
    found = compare("two", "four_eight", unit="images/s", work=16, repetitions=2, warm_up=False)
    assert found == [
        Row("a case", "two", "images/s", 8.0, (8.0, 8.0)),
        Row("a case", "four_eight", "images/s", 3.0, (2.5, 3.5), 3.0, (2.5, 3.5), goal=2.5),
    ]


@pytest.mark.parametrize("after", [0, 2])  # in its warm-up, or between others' repetitions
def test_a_peer_that_crashes_is_a_row_and_the_others_go_on(after):
    peers = [Peer("two", "peers:two"), Peer("crashing", "peers:crashing", {"after": after}, 1.0)]
    found = measure.compare("a case", "s", [*peers, Peer("four", "peers:four")], repetitions=4)
    assert found == [
        Row("a case", "two", "s", 2.0, (2.0, 2.0)),
        Row("a case", "crashing", "s", note="crashed"),
        Row("a case", "four", "s", 4.0, (4.0, 4.0), 2.0, (2.0, 2.0)),
    ]


def test_a_peer_that_cannot_start_says_why_in_its_row():
    missing, broken, two = compare("missing", "broken", "two", repetitions=1)
    assert missing == Row("a case", "missing", "s", note="not installed: no_such_package")
    assert broken == Row("a case", "broken", "s", note="fails: RuntimeError: no such processor")
    assert two == Row("a case", "two", "s", 2.0, (2.0, 2.0))  # no speed-up without ours


def test_a_peer_that_gives_up_is_a_lower_bound():
    row = compare("two", "impatient", repetitions=3)[1]
    assert (row.median, row.speedup) == (60.0, 30.0)
    assert row.note == "a lower bound: gave up in 2 of 3 repetitions"


def test_peers_take_turns_each_in_one_process(tmp_path):
    log = tmp_path / "log"
    peers = [Peer(name, "peers:counting", {"path": str(log)}) for name in "ab"]
    measure.compare("a case", "s", peers, repetitions=2)
    first, second, *turns = log.read_text().split()  # warm-ups
    assert first != second
    assert turns == [first, second] * 2


def test_seconds_become_figures():
    figures = [measure.figure(unit, 100, 2.0) for unit in ("images/s", "s", "ms", "µs")]
    assert figures == pytest.approx([50.0, 0.02, 20.0, 20_000.0])
