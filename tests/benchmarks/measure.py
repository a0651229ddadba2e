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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXPORTED = ROOT / "exported"
PACKAGES = ["ai-edge-litert", "keras", "keras-lenet", "numpy", "onnxruntime", "tensorflow", "torch"]

Repetition = Callable[[], float]
"""Returns the seconds that it took. TimeoutError(seconds): it gave up after so many."""


@dataclass(frozen=True)
class Peer:
    """Program that takes part in a comparison.

    `function` is "module:function", which prepares and returns a `Repetition`, or raises
    ModuleNotFoundError if a package or program is not installed.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the function
    goal: float | None = None  # least speed-up of ours over this peer


@dataclass
class Row:
    """Figures of one peer; the first row of a case is ours."""

    case: str
    name: str
    unit: str  # of median and quartiles
    median: float | None = None  # over the repetitions; None if nothing was measured
    quartiles: tuple[float, float] | None = None  # lower and upper
    speedup: float | None = None  # of ours over the peer, the median of the turns' own ratios
    speedup_quartiles: tuple[float, float] | None = None
    goal: float | None = None
    note: str = ""  # why there are no figures, or what to know about them


def load(function: str) -> Callable[..., Any]:
    """Return "module:function"."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _prepare(function: str, options: Mapping[str, Any]) -> None:
    """Prepare the repetition of a peer's process."""
    global _repetition
    _repetition = load(function)(**options)


def _repeat() -> tuple[float, bool]:
    """Return the seconds of a repetition, and whether it gave up."""
    try:
        return _repetition(), False
    except TimeoutError as error:
        return error.args[0], True


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

    The unit "…/s" makes rates of the seconds; "ms", "µs" and "s" make times. `work` is how much is
    done in one repetition. A warm-up is a repetition of each peer that is not counted.
    """
    rows = {peer.name: Row(case, peer.name, unit) for peer in peers}
    answers = collections.defaultdict(list)

    def ask(name: str, pool: ProcessPoolExecutor, function: Callable[..., Any], *given: Any) -> Any:
        """Return the answer of a peer that has not failed; note why there is none."""
        if rows[name].note:
            return None
        try:
            return pool.submit(function, *given).result()
        except ModuleNotFoundError as error:
            rows[name].note = f"not installed: {error.name}"
        except BrokenProcessPool:
            rows[name].note = "crashed"
        except Exception as error:
            line = str(error).partition("\n")[0][:150]
            rows[name].note = f"fails: {type(error).__name__}: {line}"
        answers.pop(name, None)
        return None

    with contextlib.ExitStack() as stack:
        pools = {}
        for peer in peers:
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            pools[peer.name] = stack.enter_context(pool)
            ask(peer.name, pool, _prepare, peer.function, peer.options)
            if warm_up:
                ask(peer.name, pool, _repeat)
        for _ in range(repetitions):
            for name, pool in pools.items():
                if answer := ask(name, pool, _repeat):
                    answers[name].append(answer)
    ours = [seconds for seconds, _ in answers.get(peers[0].name, [])]
    for peer in peers:
        if peer.name not in answers:
            continue
        row, taken = rows[peer.name], [seconds for seconds, _ in answers[peer.name]]
        row.median, row.quartiles = spread(figure(unit, work, seconds) for seconds in taken)
        if ours and peer is not peers[0]:
            row.goal = peer.goal
            row.speedup, row.speedup_quartiles = spread(map(truediv, taken, ours))
        if gave_up := sum(gave_up for _, gave_up in answers[peer.name]):
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
    """Return the processor and the versions of everything that is measured."""
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
