"""What a person sees while work goes on. All of it goes to stderr: stdout is for results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

console = Console(stderr=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Print one message, as it is, without markup."""
    console.print(message, style=style, markup=False, soft_wrap=True)


def progress(*, of_bytes: bool = False) -> Progress:
    """A progress bar with a count, the time taken and the time left; used as a context manager.

    Where stderr is no terminal, nothing is drawn: messages tell the story there.
    """
    from rich import progress  # slow to import, and only work needs it

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn() if of_bytes else progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
