"""Peers that take turns, each in a process of its own, and the rows of figures that they give."""

from __future__ import annotations

import collections
import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXPORTED = ROOT / "exported"
PATIENCE = 600.0  # seconds to wait for an answer of a peer
PACKAGES = ["ai-edge-litert", "keras", "keras-lenet", "numpy", "onnxruntime", "tensorflow", "torch"]

Repetition = Callable[[], float]
"""Returns the seconds that it took. TimeoutError(seconds): it gave up after so many."""


@dataclass(frozen=True)
class Peer:
    """A program that takes part in a comparison.

    `function` is "module:function", which prepares and returns a `Repetition`; a package or program
    that is not installed raises ModuleNotFoundError there.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the function
    goal: float | None = None  # the least speed-up of ours over this peer that is asked


@dataclass
class Row:
    """The figures of one peer; the first row of a case is ours."""

    case: str
    name: str
    unit: str  # of median and quartiles
    median: float | None = None  # over the repetitions; None where nothing was measured
    quartiles: tuple[float, float] | None = None  # lower and upper
    speedup: float | None = None  # of ours over the peer, the median of the turns' own ratios
    speedup_quartiles: tuple[float, float] | None = None
    goal: float | None = None
    note: str = ""  # why there are no figures, or what to know of them


def load(function: str) -> Callable[..., Any]:
    """Return "module:function"."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class Process:
    """The process of a peer.

    Every answer is a dict: `seconds` of a repetition, `gave_up` where this is a lower bound, or a
    `note` that says why no other answer will come.
    """

    def __init__(self, peer: Peer) -> None:
        """Start the process, whose first answer, an empty one, says that it is ready."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, peer.function, peer.options))
        self._process.start()
        theirs.close()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        try:
            if self._connection.poll(PATIENCE):
                return self._connection.recv()
            return {"note": f"no answer in {PATIENCE:.0f} s"}
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode
            return {
                "note": f"crashed: signal {-status}" if status < 0 else f"ended: status {status}"
            }

    def repeat(self) -> dict[str, Any]:
        """Return the answer of one repetition."""
        with contextlib.suppress(ConnectionError):  # the answer says how the process ended
            self._connection.send(None)
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(connection: Any, function: str, options: Mapping[str, Any]) -> None:
    """Prepare a peer, and have a repetition for each message."""
    try:
        repetition = load(function)(**options)
        connection.send({})
        while True:
            connection.recv()
            try:
                connection.send({"seconds": repetition()})
            except TimeoutError as error:
                connection.send({"seconds": error.args[0], "gave_up": True})
    except ModuleNotFoundError as error:
        connection.send({"note": f"not installed: {error.name}"})
    except Exception as error:
        line = str(error).partition("\n")[0][:150]
        connection.send({"note": f"fails: {type(error).__name__}: {line}"})


def compare(
    case: str,
    unit: str,
    peers: Sequence[Peer],
    *,
    work: float = 1,
    repetitions: int = 9,
    warm_up: bool = True,
) -> list[Row]:
    """Let peers, ours first, take turns; return a row for each.

    The unit "…/s" makes rates of the seconds; "ms", "µs" and "s" times. `work` is how much is done
    in one repetition. A warm-up is a repetition of each peer that is not counted.
    """
    rows = {peer.name: Row(case, peer.name, unit) for peer in peers}
    goals = {peer.name: peer.goal for peer in peers}
    answers = collections.defaultdict(list)
    processes = {}

    def hear(name: str, answer: dict[str, Any]) -> bool:
        if "note" in answer:
            rows[name].note = answer["note"]
            processes.pop(name).stop()
            answers.pop(name, None)
        return "note" not in answer

    try:
        for peer in peers:
            process = processes[peer.name] = Process(peer)
            if hear(peer.name, process.answer()) and warm_up:
                hear(peer.name, process.repeat())
        for _ in range(repetitions):
            for name, process in list(processes.items()):
                if hear(name, answer := process.repeat()):
                    answers[name].append(answer)
    finally:
        for process in processes.values():
            process.stop()
    ours = [answer["seconds"] for answer in answers.get(peers[0].name, [])]
    for name, given in answers.items():
        row, taken = rows[name], [answer["seconds"] for answer in given]
        row.median, row.quartiles = spread(figure(unit, work, seconds) for seconds in taken)
        if ours and name != peers[0].name:
            row.goal = goals[name]
            row.speedup, row.speedup_quartiles = spread(map(truediv, taken, ours))
        if gave_up := sum("gave_up" in answer for answer in given):
            row.note = f"a lower bound: gave up in {gave_up} of {repetitions} repetitions"
    return list(rows.values())


def figure(unit: str, work: float, seconds: float) -> float:
    """Return the seconds of one repetition in the unit of its case."""
    if unit.endswith("/s"):
        return work / seconds
    return {"s": 1, "ms": 1e3, "µs": 1e6}[unit] * seconds / work


def spread(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """Return the median, and the lower and upper quartile."""
    values = list(values)
    if len(values) == 1:
        values *= 2  # the quantiles of a single value are undefined
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return middle, (low, high)


def wall(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes, on all cores."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def mnist(split: str) -> Any:
    """Return MNIST's images and labels, from `$KERAS_LENET_DATA` or the user's cache."""
    from keras_lenet.data import reading

    folder = os.environ.get("KERAS_LENET_DATA")
    return reading.load("mnist", split, Path(folder) if folder else None)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return what everything is measured on."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }
