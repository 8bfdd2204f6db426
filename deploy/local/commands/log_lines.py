"""Which lines of the logs belong to a request, a job or a model, and how they are shown. Pure.

Theory. A gateway's line about a request that failed has the request's id, and names the attempts
that it failed with. A replica's line about an execution that failed names calls as
`GATEWAY/ATTEMPT`, and jobs by their ids. Attempts are numbered anew in each life of a gateway, so
that lines belong together only if the execution ended while the request was open.

A replica that was lost wrote no such line: what its worker says of it at that time stands instead.
Replicas write before gateways do, so lines that may still turn out to belong are kept for a while.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SLACK_S = 1.0
"""Between clocks of processes of one machine, and between an event and its line."""

LOSS_S = 10.0
"""How long after a request failed its replica's end may be told."""

HELD_MAX = 2000
"""Lines that may still belong: those of a minute, of many replicas that always fail."""

EXECUTION_FAILED = "execution failed"
REPLICA_ENDED = "replica ended"
BAD = frozenset({"warning", "error", "critical"})
MULTILINE = ("traceback", "exception")
HEAD = frozenset({"timestamp", "level", "event", "process", "component", *MULTILINE})
INDENT = "    "


@dataclass(frozen=True)
class LogLine:
    """A line of a log.

    Attributes:
        raw: as it stands there.
        fields: of its JSON object.
        at: when, in seconds since 1970.
    """

    raw: bytes
    fields: Mapping[str, Any]
    at: float


@dataclass(frozen=True)
class LogQuery:
    """What lines are looked for; one of these."""

    request: str = ""
    job: str = ""
    model: str = ""


@dataclass(frozen=True)
class _Attempt:
    """What a request failed with, and between which times (seconds since 1970)."""

    call: str
    replica: str
    since: float
    until: float


def parsed(raw: bytes) -> LogLine | None:
    """A line of ours; None if it is something else, such as what a model printed."""
    try:
        fields = json.loads(raw)
        return LogLine(raw, fields, datetime.fromisoformat(fields["timestamp"]).timestamp())
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class Finder:
    """Finds lines, read in any order; best the gateways' first."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        name = query.request or query.job or query.model
        self._needle = json.dumps(name)[1:-1].encode()
        self._attempts: list[_Attempt] = []
        self._held: deque[LogLine] = deque(maxlen=HELD_MAX)

    def feed(self, raw: bytes) -> list[LogLine]:
        """The lines that this one shows to belong to the request; each is given once."""
        named = self._needle in raw
        if not named and not (self._query.request and b'"replica"' in raw):
            return []
        line = parsed(raw)
        if line is None:
            return []
        if named and self._is_named(line.fields):
            return [line, *self._joined(line)]
        if not self._query.request or not _tells_of_a_failure(line.fields):
            return []
        if any(_belongs(line, attempt) for attempt in self._attempts):
            return [line]
        self._held.append(line)
        return []

    def _is_named(self, fields: Mapping[str, Any]) -> bool:
        query = self._query
        if query.request:
            return fields.get("request_id") == query.request
        if query.model:
            return fields.get("model") == query.model
        jobs = fields.get("jobs")
        named = [fields.get("job"), *(jobs if isinstance(jobs, list) else ())]
        return query.job in named

    def _joined(self, line: LogLine) -> list[LogLine]:
        """Lines that were read before, and belong to the attempts that this one names."""
        attempts = _attempts_of(line)
        self._attempts += attempts
        if not attempts:
            return []
        found = [held for held in self._held if any(_belongs(held, each) for each in attempts)]
        for each in found:
            self._held.remove(each)
        return found


def _tells_of_a_failure(fields: Mapping[str, Any]) -> bool:
    return fields.get("level") in BAD or fields.get("event") == REPLICA_ENDED


def _attempts_of(line: LogLine) -> list[_Attempt]:
    attempts = line.fields.get("attempts")
    duration_ms = line.fields.get("duration_ms")
    if not isinstance(attempts, list) or not isinstance(duration_ms, int | float):
        return []
    since, until = line.at - duration_ms / 1000 - SLACK_S, line.at + SLACK_S
    gateway = line.fields.get("gateway")
    return [
        _Attempt(f"{gateway}/{each.get('attempt')}", str(each.get("replica")), since, until)
        for each in attempts
        if isinstance(each, dict)
    ]


def _belongs(line: LogLine, attempt: _Attempt) -> bool:
    fields = line.fields
    if fields.get("replica") != attempt.replica or line.at < attempt.since:
        return False
    if fields.get("event") == EXECUTION_FAILED:
        calls = fields.get("calls")
        return line.at <= attempt.until and isinstance(calls, list) and attempt.call in calls
    return fields.get("process") == "worker" and line.at <= attempt.until + LOSS_S


def shown(line: LogLine) -> str:
    """A line for people; what has several lines follows, indented."""
    fields = line.fields
    who = fields.get("replica") or fields.get("worker") or fields.get("gateway")
    head = [str(fields["timestamp"]), str(fields.get("level", "")).ljust(7)]
    head += [str(who or fields.get("process", "")), str(fields.get("event", ""))]
    others = [f"{name}={_value(each)}" for name, each in fields.items() if name not in HEAD]
    rows = [_printable(" ".join([*head, *others]))]
    for name in MULTILINE:
        rows += [INDENT + _printable(row) for row in str(fields.get(name, "")).splitlines()]
    return "\n".join(rows)


def _value(value: object) -> str:
    if isinstance(value, str) and value and not any(char in value for char in ' "='):
        return value
    return json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """What a client or a model said is not to move a terminal's cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
