"""What a person sees while work goes on. All of it goes to stderr: stdout is for results."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Print one message, as it is, without markup."""
    console.print(message, style=style, markup=False, soft_wrap=True)


def progress(*, of_bytes: bool = False) -> Progress:
    """A progress bar with a count, the time taken and the time left; used as a context manager.

    Where stderr is no terminal, nothing is drawn: messages tell the story there.
    """
    count: ProgressColumn = DownloadColumn() if of_bytes else MofNCompleteColumn()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
