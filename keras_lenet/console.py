"""Messages and progress on stderr, tables on stdout, and keeping native libraries quiet."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator

import rich.progress as bars
from rich import box
from rich.console import Console
from rich.table import Table

console = Console(stderr=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Print one message, without markup."""
    console.print(message, style=style, markup=False, soft_wrap=True)


def progress(*, of_bytes: bool = False) -> bars.Progress:
    """Return a progress bar, a context manager; it draws nothing if stderr is not a terminal."""
    return bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn() if of_bytes else bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_table(
    header: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    right_aligned: Collection[str] = (),
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Print a table to stdout without wrapping or cutting rows.

    `right_aligned` has the headers of the columns of figures.
    """
    table = Table(title=title, caption=caption, box=box.SIMPLE)
    for name in header:
        table.add_column(name, justify="right" if name in right_aligned else "left")
    for row in rows:
        table.add_row(*row)
    narrow = Console(markup=False, emoji=False)
    natural = narrow.measure(table, options=narrow.options.update(max_width=200)).maximum
    Console(markup=False, emoji=False, width=max(natural, narrow.width)).print(table)


def plain(text: str) -> str:
    """Escape control characters: names and descriptions may come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_INFORMATION = re.compile(
    r"I\d{4} |INFO: |WARNING: All log messages before absl|To enable the following|fully_quantize: "
)


@contextlib.contextmanager
def captured(*descriptors: int) -> Iterator[list[str]]:
    """Divert the file descriptors of stdout (1) or stderr (2), to which C++ writes.

    Yield a list of lines, which is filled at the end.
    """
    lines: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as held:
        saved = [os.dup(descriptor) for descriptor in descriptors]
        for descriptor in descriptors:
            os.dup2(held.fileno(), descriptor)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip(descriptors, saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            held.seek(0)
            lines += held


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Drop TensorFlow's information messages on stderr; show warnings and errors.

    Its C++ logs before TensorFlow reads any setting.
    """
    lines: list[str] = []
    try:
        with captured(2) as lines:
            yield
    finally:
        sys.stderr.writelines(line for line in lines if not _INFORMATION.match(line))
