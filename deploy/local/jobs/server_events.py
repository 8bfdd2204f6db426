"""Server-sent events, as the WHATWG's standard has them, out of the lines of a response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """One event.

    Attributes:
        id: the last id that the stream told, for `Last-Event-ID`; empty before the first.
        kind: `message` where the stream does not say.
        data: its lines.
    """

    id: str
    kind: str
    data: str


def read_events(lines: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Events of a stream; what its end cuts off is no event.

    Args:
        lines: with their ends, `\\n` or `\\r\\n`.
    """
    last_id, kind = "", ""
    data: list[str] = []
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield ServerEvent(last_id, kind or "message", "\n".join(data))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
