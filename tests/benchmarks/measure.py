"""Peers that take turns, each in a process of its own, and the rows of figures that they give."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXPORTED = ROOT / "exported"
WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 600.0  # seconds to wait for an answer of a peer
PACKAGES = (
    "ai-edge-litert", "keras", "keras-lenet", "numpy", "onnxruntime", "tensorflow", "torch",
)  # fmt: skip

Repetition = Callable[[], float]
"""Returns the seconds that it took. TimeoutError(seconds): it gave up after so many."""


@dataclass(frozen=True)
class Peer:
    """A program that takes part in a comparison.

    Attributes:
        name: as in the table.
        function: "module:function", which prepares and returns a `Repetition`. ImportError: it is
            not installed.
        options: arguments of the function, as JSON has them.
        goal: the least speed-up of ours over this peer that is asked.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    goal: float | None = None


@dataclass(frozen=True)
class Row:
    """The figures of one peer.

    Attributes:
        case: what was measured; the first row of a case is ours.
        name: of the peer.
        unit: of median and quartiles.
        median: over the repetitions; None where nothing was measured.
        quartiles: of the repetitions, lower and upper.
        speedup: of ours over the peer, the median of the repetitions' own ratios.
        speedup_quartiles: of these ratios.
        goal: the least speed-up that is asked.
        note: why there are no figures, or what to know of them.
    """

    case: str
    name: str
    unit: str
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    speedup: float | None = None
    speedup_quartiles: tuple[float, float] | None = None
    goal: float | None = None
    note: str = ""


class Process:
    """The process of a peer, which answers one line of JSON to each line."""

    def __init__(self, peer: Peer) -> None:
        """Start it; it prepares, and its first answer says that it is ready."""
        command = [sys.executable, str(WORKER), peer.function, json.dumps(dict(peer.options))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> dict[str, Any]:
        """Return the next answer; a `note` says why no other one will come."""
        stdout = self._process.stdout
        if not select.select([stdout], [], [], PATIENCE)[0]:
            return {"note": f"no answer in {PATIENCE:.0f} s"}
        if line := stdout.readline():
            return json.loads(line)
        status = self._process.wait()
        return {"note": f"crashed: signal {-status}" if status < 0 else f"ended: status {status}"}

    def repeat(self) -> dict[str, Any]:
        """Have one repetition."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: its answer says how
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def compare(
    case: str,
    unit: str,
    peers: Iterable[Peer],
    *,
    work: float = 1,
    repetitions: int = 9,
    warm_up: bool = True,
) -> list[Row]:
    """Let peers take turns; a row for each.

    Args:
        case: what is measured.
        unit: "…/s" makes rates of the seconds; "ms", "µs" and "s" times.
        peers: in the order of their turns, ours first.
        work: how much is done in one repetition: images, or 1.
        repetitions: how often each has its turn.
        warm_up: let each have a repetition first that isn't counted.
    """
    rows = {peer.name: Row(case, peer.name, unit, goal=peer.goal) for peer in peers}
    seconds: dict[str, list[float]] = {}
    gave_up = dict.fromkeys(rows, 0)
    processes: dict[str, Process] = {}

    def drop(name: str, note: str) -> None:
        processes.pop(name).stop()
        seconds.pop(name, None)
        rows[name] = replace(rows[name], goal=None, note=note)

    try:
        for peer in peers:
            process = processes[peer.name] = Process(peer)
            answer = process.answer()
            if warm_up and "note" not in answer:
                answer = process.repeat()
            if "note" in answer:
                drop(peer.name, answer["note"])
        for _ in range(repetitions):
            for name, process in list(processes.items()):
                answer = process.repeat()
                if "note" in answer:
                    drop(name, answer["note"])
                    continue
                seconds.setdefault(name, []).append(answer["seconds"])
                gave_up[name] += answer.get("gave_up", False)
    finally:
        for process in processes.values():
            process.stop()
    ours = seconds.get(next(iter(rows)))
    for name, taken in seconds.items():
        figures = [figure(unit, work, each) for each in taken]
        rows[name] = measured(rows[name], figures, ours if ours is not taken else None, taken)
        if gave_up[name]:
            note = f"a lower bound: gave up in {gave_up[name]} of {repetitions} repetitions"
            rows[name] = replace(rows[name], note=note)
    return list(rows.values())


def measured(row: Row, figures: list[float], ours: list[float] | None, taken: list[float]) -> Row:
    """Return a row with its figures, and with the speed-up of ours where that was measured."""
    median, quartiles = spread(figures)
    row = replace(row, median=median, quartiles=quartiles)
    if not ours:
        return replace(row, goal=None)
    speedup, quartiles = spread(b / a for a, b in zip(ours, taken, strict=True))
    return replace(row, speedup=speedup, speedup_quartiles=quartiles)


def figure(unit: str, work: float, seconds: float) -> float:
    """Return the seconds of one repetition in the unit of its case."""
    if unit.endswith("/s"):
        return work / seconds
    return {"s": 1, "ms": 1e3, "µs": 1e6}[unit] * seconds / work


def spread(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """Return the median, and the lower and upper quartile."""
    values = list(values)
    if len(values) == 1:
        return values[0], (values[0], values[0])
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return middle, (low, high)


def wall(work: Callable[[], object]) -> float:
    """Return the seconds until it is done, on all cores."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return what everything is measured on."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
