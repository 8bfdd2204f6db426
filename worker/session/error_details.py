"""What callers are told of an exception in a model: its type and first line, and no more. Pure.

Only what was raised while the request ran alone comes here: of several, the words could be of
another caller's data. Where in a file system something lies is not the callers' business.
"""

from __future__ import annotations

import re

DETAIL_CHARS_MAX = 200
"""Enough to see what was wrong with a request; a message may repeat all of it."""

_PATHS = re.compile(r"(?:[A-Za-z]:\\|\\\\|(?<![\w.])(?:~|\.{1,2})?/)[^\s'\"`,;:()<>\[\]]+")
_PATH = "(a path)"


def with_cause(message: str, cause: str) -> str:
    """A message with what was raised, as `penstock.shared.wire.messages.Failure` has it."""
    line = _PATHS.sub(_PATH, cause.strip().partition("\n")[0])
    if len(line) > DETAIL_CHARS_MAX:
        line = f"{line[:DETAIL_CHARS_MAX]}..."
    return f"{message}: {line}" if line else message
