"""What commands print: tables, and text that may come from strangers."""

from collections.abc import Collection, Iterable

from rich import box
from rich.console import Console
from rich.table import Table


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
