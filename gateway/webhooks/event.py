"""What a webhook says: a payload as Standard Webhooks recommends, and its id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""An id is signed with dots around it, so it must have none."""


@dataclass(frozen=True)
class WebhookEvent:
    """An event, the same at each attempt to deliver it.

    Args:
        event_id: by which receivers know an event that comes twice; letters, digits, `_` and `-`.
        body: the request's body, JSON.

    Raises:
        ValueError: if the id is no such text.
    """

    event_id: str
    body: bytes

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.event_id):
            raise ValueError(f"an event's id is letters, digits, _ and -, got {self.event_id!r}")


def webhook_event(
    event_id: str, kind: str, occurred_at: float, data: Mapping[str, Any]
) -> WebhookEvent:
    """An event with the payload `{"type", "timestamp", "data"}`.

    Args:
        kind: such as `job.succeeded`.
        occurred_at: seconds since the Unix epoch; in the payload it is ISO 8601.
        data: what orjson can write.

    Raises:
        ValueError: if the id is none.
    """
    when = datetime.fromtimestamp(occurred_at, UTC).isoformat(timespec="milliseconds")
    timestamp = when.replace("+00:00", "Z")
    body = orjson.dumps({"type": kind, "timestamp": timestamp, "data": data})
    return WebhookEvent(event_id, body)
