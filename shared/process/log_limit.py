"""A bound on lines of the log that others can cause as often as they like, by kind. Pure.

The first lines of a kind in a minute are written, and the others are counted. So a client that is
refused a thousand times a second fills no disk, and what went wrong can still be read.
"""

from __future__ import annotations

WINDOW_S = 60.0

LINES_MAX = 30
"""Lines of a kind in a window: enough to see who sends what; with twenty kinds of 300 bytes, at
most 300 MB in a day that is all refusals."""


class LogLimit:
    """Decides which lines are written. Kinds must be few, such as the codes of errors."""

    def __init__(self, lines_max: int = LINES_MAX, window_s: float = WINDOW_S) -> None:
        self._lines_max = lines_max
        self._window_s = window_s
        self._windows: dict[str, tuple[float, int]] = {}  # its beginning, and lines asked for

    def may_write(self, kind: str, now: float) -> bool:
        """Whether another line of this kind may be written at `now` (monotonic seconds)."""
        began, asked = self._windows.get(kind, (now, 0))
        self._windows[kind] = (began, asked + 1)
        return asked < self._lines_max

    def over(self, now: float) -> dict[str, int]:
        """Lines left out, by kind, of the windows that are over; each is told once.

        To be called before a line is asked for, and when a window has ended.
        """
        left_out = {}
        for kind, (began, asked) in list(self._windows.items()):
            if now - began >= self._window_s:
                del self._windows[kind]
                if asked > self._lines_max:
                    left_out[kind] = asked - self._lines_max
        return left_out
