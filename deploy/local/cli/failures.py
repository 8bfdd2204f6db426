"""Mistakes and outages that a command line answers with one line, never with a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """What went wrong, and what to do about it, in one line for the terminal.

    Args:
        message: the line.
        exit_code: 2 for a mistake in how the command was called, 1 for everything else.
        detail: more lines, such as the end of a log.
    """

    def __init__(self, message: str, exit_code: int = 1, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.detail = detail
