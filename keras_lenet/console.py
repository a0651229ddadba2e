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
    """Print one message, as it is, without markup."""
    console.print(message, style=style, markup=False, soft_wrap=True)


def progress(*, of_bytes: bool = False) -> bars.Progress:
    """Return a progress bar with a count, the time taken and left; used as a context manager.

    Where stderr is no terminal, nothing is drawn: messages tell the story there.
    """
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
    """Print to stdout with every row whole: rows wider than the window spill over.

    `right_aligned` has the headers of the columns of figures.
    """
    table = Table(title=title, caption=caption, box=box.SIMPLE)
    for name in header:
        table.add_column(name, justify="right" if name in right_aligned else "left")
    for row in rows:
        table.add_row(*row)
    narrow = Console(markup=False, emoji=False)  # names are no markup
    natural = narrow.measure(table, options=narrow.options.update(max_width=200)).maximum
    Console(markup=False, emoji=False, width=max(natural, narrow.width)).print(table)


def plain(text: str) -> str:
    """Escape what terminals obey: names and descriptions may come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_INFORMATION = re.compile(
    r"I\d{4} |INFO: |WARNING: All log messages before absl|To enable the following|fully_quantize: "
)


@contextlib.contextmanager
def captured(*descriptors: int) -> Iterator[list[str]]:
    """Divert stdout (1) or stderr (2), what C++ writes there too; yields a list, filled at the end.

    C++ knows nothing of `sys.stderr`, so the file descriptors are what has to be moved.
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
def without_information() -> Iterator[None]:
    """Hold back what TensorFlow's C++ logs to stderr as information; warnings and errors show.

    It logs before any setting of its own is read.
    """
    lines: list[str] = []
    try:
        with captured(2) as lines:
            yield
    finally:
        sys.stderr.writelines(line for line in lines if not _INFORMATION.match(line))
