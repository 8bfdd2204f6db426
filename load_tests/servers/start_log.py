"""When the parts of `penstock up` got where, read from their logs; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

VALKEY_READY = "Ready to accept connections"


def event_at(log: str, event: str) -> float | None:
    """When a line of JSON first told an event, as seconds since the epoch; None if none did."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a traceback, or half a line
        if isinstance(entry, dict) and entry.get("event") == event:
            return datetime.fromisoformat(entry["timestamp"]).timestamp()
    return None


def valkey_ready_at(log: str) -> float | None:
    """The same of the store, whose lines say `PID:M 22 Nov 2026 15:26:04.117 * ...`, local time."""
    for line in log.splitlines():
        if VALKEY_READY in line:
            words = line.split()[1:5]
            return datetime.strptime(" ".join(words), "%d %b %Y %H:%M:%S.%f").timestamp()  # noqa: DTZ007 - local
    return None


def since(begin: float, moments: Iterable[float | None]) -> list[float]:
    """Seconds from the beginning; what never happened is not a number."""
    return [moment - begin if moment else float("nan") for moment in moments]
