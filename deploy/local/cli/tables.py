"""Where tables are printed: folded to fit a terminal, one line for each row anywhere else.

What reads a pipe or a file looks for whole ids and names, and has no width.
"""

from __future__ import annotations

from rich.console import Console

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
