"""Contestants that take turns, and what comes of it: rows of ratios, as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Run = Callable[[], float]
"""One repetition; returns what it took, in seconds. GaveUpError: it came to nothing in time."""
Contestant = Callable[[], Run]
"""Makes ready. ImportError: it isn't installed; RuntimeError: it doesn't work here."""
Attempt = Callable[[int, float], bool]
"""Trains from a seed until some time; whether the goal is reached on the validation split."""

PACKAGES = (
    "ai-edge-litert", "keras", "keras-lenet", "numpy", "onnxruntime", "tensorflow", "torch",
)  # fmt: skip


class GaveUpError(Exception):
    """A repetition was ended before it came to anything: what it took is a lower bound."""

    def __init__(self, seconds: float) -> None:
        """Take the seconds after which it was ended."""
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True)
class Row:
    """One contestant's figures.

    Attributes:
        room: which benchmark it belongs to.
        case: what was measured; the first row of a case is ours.
        name: of the contestant.
        unit: of the figures.
        median: over the repetitions; None where it wasn't measured.
        quartiles: of the repetitions, lower and upper.
        ratio: how many times as fast ours is, the median of the repetitions' own ratios.
        ratio_quartiles: of these ratios.
        at_least: what the ratio is to be; None where nothing is asked.
        note: why there are no figures, or what to know of them.
    """

    room: str
    case: str
    name: str
    unit: str
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    ratio: float | None = None
    ratio_quartiles: tuple[float, float] | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether less came out than is asked."""
        return None not in (self.ratio, self.at_least) and self.ratio < self.at_least


@dataclass(frozen=True)
class Case:
    """One comparison: who takes part, ours first, and what is asked of the ratio to each.

    Attributes:
        name: what is measured.
        contestants: by name, in the order of their turns.
        unit: "…/s" makes rates of the seconds; "ms", "µs" and "s" times.
        work: how much is done in one repetition: images, or 1.
        repetitions: how often each has its turn.
        at_least: by name, what the ratio is to be.
        warm_up: let each have a repetition first that isn't counted.
    """

    name: str
    contestants: Mapping[str, Contestant]
    unit: str
    work: float = 1
    repetitions: int = 9
    at_least: Mapping[str, float] = dataclasses.field(default_factory=dict)
    warm_up: bool = True


def rows(room: str, case: Case) -> list[Row]:
    """Let the contestants take turns."""
    runs: dict[str, Run] = {}
    notes: dict[str, str] = {}
    for name, prepare in case.contestants.items():
        try:
            runs[name] = prepare()
            if case.warm_up:
                runs[name]()
        except ImportError:
            runs.pop(name, None)
            notes[name] = "not installed"
        except RuntimeError as error:
            runs.pop(name, None)
            notes[name] = f"does not work here: {str(error).splitlines()[0]}"
    taken: dict[str, list[float]] = {name: [] for name in runs}
    given_up = dict.fromkeys(runs, 0)
    for _ in range(case.repetitions):
        for name, run in runs.items():
            try:
                taken[name].append(run())
            except GaveUpError as error:
                taken[name].append(error.seconds)
                given_up[name] += 1
                notes[name] = (
                    f"a lower bound: given up in {given_up[name]} of {case.repetitions} turns"
                )
    return summarized(room, case, taken, notes)


def summarized(
    room: str, case: Case, taken: Mapping[str, list[float]], notes: Mapping[str, str]
) -> list[Row]:
    """A row for each contestant, of the seconds of its repetitions.

    Args:
        room: the benchmark's name.
        case: what was measured; its first contestant is ours.
        taken: seconds by contestant, repetition by repetition.
        notes: on contestants, whether they were measured or not.
    """
    ours = taken.get(next(iter(case.contestants)), [])
    found = []
    for name in case.contestants:
        row = Row(room, case.name, name, case.unit, note=notes.get(name, ""))
        if seconds := taken.get(name):
            median, quartiles = spread(figure(case, each) for each in seconds)
            row = dataclasses.replace(row, median=median, quartiles=quartiles)
        if seconds and ours and seconds is not ours:
            ratio, between = spread(b / a for a, b in zip(ours, seconds, strict=True))
            least = case.at_least.get(name)
            row = dataclasses.replace(row, ratio=ratio, ratio_quartiles=between, at_least=least)
        found.append(row)
    return found


def unrivalled(room: str, case: str, unit: str, taken: Mapping[str, list[float]]) -> list[Row]:
    """Rows without ratios, of seconds by name."""
    whole = Case(case, {}, unit)
    return [
        Row(room, case, name, unit, *spread(figure(whole, each) for each in seconds))
        for name, seconds in taken.items()
    ]


def figure(case: Case, seconds: float) -> float:
    """Seconds of one repetition in the unit of its case."""
    if case.unit.endswith("/s"):
        return case.work / seconds
    return {"s": 1, "ms": 1e3, "µs": 1e6}[case.unit] * seconds / case.work


def spread(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """The median, and the lower and upper quartile."""
    values = list(values)
    if len(values) == 1:
        return values[0], (values[0], values[0])
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return middle, (low, high)


def wall(work: Callable[[], object]) -> float:
    """Seconds until it is done, on all cores."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What all this is measured on."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def markdown(report: Mapping[str, Any]) -> str:
    """The report as tables, one for each room."""
    found = [Row(**row) for row in report["rows"]]
    parts = []
    for room in dict.fromkeys(row.room for row in found):
        parts.append(
            f"| {room} | median | ours is times as fast, and half of the repetitions | goal |\n"
            "|---|---:|---:|---:|"
        )
        for row in found:
            if row.room == room:
                parts[-1] += "\n" + _line(row)
    host = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in host["versions"].items() if number)
    parts.append(f"{host['cpu']}, {host['cores']} cores; Python {host['python']}, {versions}.")
    return "\n\n".join(parts)


def _line(row: Row) -> str:
    median = row.note if row.median is None else f"{_round(row.median)} {row.unit}"
    if row.median is not None and row.note:
        median += f" ({row.note})"
    ratio = asked = ""
    if row.ratio is not None and row.ratio_quartiles:
        low, high = row.ratio_quartiles
        ratio = f"{row.ratio:.2f} ({low:.2f} to {high:.2f})"
    if row.at_least is not None:
        asked = f"{row.at_least:g}" + (", missed" if row.missed else "")
    return f"| {row.case}: {row.name} | {median} | {ratio} | {asked} |"


def _round(value: float) -> str:
    """Three digits that count, or all of them before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
