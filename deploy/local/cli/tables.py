"""Where tables are printed: folded to fit a terminal, one line for each row anywhere else.

What reads a pipe or a file looks for whole ids and names, and has no width.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 100_000
"""Columns where there is no terminal: more than any row has, less than what costs memory."""


def table_console() -> Console:
    """Standard output, for tables and lines whose text is not ours."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def is_narrow(console: Console) -> bool:
    """Whether rows may have to be folded."""
    return console.width < PIPED_WIDTH


def one_line(name: str) -> str:
    """A name, with what would move the cursor written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def folded_table(*columns: str) -> Table:
    """A table that folds what is too long for the terminal, rather than cutting it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
