"""What `penstock up` says while it starts: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Announcer:
    """One line for each step: `started` when it begins (not on a terminal), its time at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that `what` is being waited for, then that it is there; on an exception, nothing."""
        begin = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(f"{what} ..."):
                yield
        else:
            self.say(f"  {what} ...")
            yield
        took = time.monotonic() - begin
        self._print(f"  {what}: ready after {took:.1f} s", "green")

    def say(self, line: str) -> None:
        """Print a line."""
        self._print(line, "")

    def warn(self, line: str) -> None:
        """Print a line that asks for attention."""
        self._print(line, "yellow")

    def _print(self, line: str, style: str) -> None:
        # Nobody may be listening any more (`penstock up | head`, a closed terminal), which rich
        # answers with SystemExit. That must not keep us from draining.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(line, style=style)
