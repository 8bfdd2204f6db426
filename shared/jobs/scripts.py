"""From calls to commands of the server and back, without a connection.

`ScriptRun`s decide what to send; whoever has a connection (`store`, `blocking_store`) sends it in
one pipeline and hands the answers back, until there is an outcome. A server that was restarted
does not know our scripts, so they may have to be loaded on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from penstock.shared.contracts.errors import PenstockError, StateStoreError, StoreFullError
from penstock.shared.jobs.calls import SMALL_BYTES, Call
from penstock.shared.jobs.durability import Durability, durability_of
from penstock.shared.jobs.record import FINISHED, TRANSITIONS
from penstock.shared.jobs.totals import BOUNDS_MS
from penstock.shared.store.keys import Keys
from penstock.shared.wire.records import record

Command: TypeAlias = tuple[Any, ...]
ScriptRun: TypeAlias = Generator[Sequence[Command], Sequence[Any], Any]
"""Yields commands for one pipeline, is sent their answers (errors among them), and returns."""

WAIT_FOR_DISK_MS = 3_000
"""Longest wait for an fsync: below the socket's timeout, above the second between two of them."""

ANOTHER_SERVER = "the job store's server was replaced by one that promises something else"
"""Why a call that was carried out counts as one without an answer: it may not be on the disk. The
client connects anew by itself, so this is seen only afterwards."""

LIMITS: Mapping[str, int] = {
    "events": 256,  # of one job; outputs of a stream that nobody reads must not add up
    "event_bytes": 1 << 20,
    "events_if_full": 4,  # of one job that are kept as outputs come to a store that is full
    "small_bytes": SMALL_BYTES,
    "priority_ms": 1 << 43,  # more than any wall clock reads until the year 2248
    "overdue": 32,  # jobs that a lease finds overdue and looks behind, so that it stays short
    "spared": 3,  # times that a job's replica may die before it began, and no attempt counts
    "grant_ms": 60_000,  # longer than anybody sends one request again
    "spares": 64,  # inputs kept for a retry that one call gives up for room: it is short so
    "undelivered": 1_000,  # webhooks that were given up, for the operator to look at
    "totals_ms": 30 * 24 * 3_600_000,  # how long a model's totals outlive its last job
}
"""Limits that the scripts know."""


@record
class Script:
    """A script's text and the name under which the server keeps it."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """A script of `shared/jobs/scripts`, with what all of them begin with."""
    folder = resources.files(__package__) / "lua"
    parts = [_tables(), *((folder / f"{part}.lua").read_text() for part in ("prelude", name))]
    text = "\n".join(parts)
    return Script(text, hashlib.sha1(text.encode()).hexdigest())


def _tables() -> str:
    may = ", ".join(f"{state} = {_set(following)}" for state, following in TRANSITIONS.items())
    limits = ", ".join(f"{name} = {value}" for name, value in LIMITS.items())
    bounds = ", ".join(map(str, BOUNDS_MS))
    return (
        f"local MAY = {{{may}}}\nlocal FINISHED = {_set(FINISHED)}\n"
        f"local LIMITS = {{{limits}}}\nlocal BOUNDS_MS = {{{bounds}}}"
    )


def _set(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{name} = true" for name in sorted(names)) + "}"


class Scripts:
    """Exchanges for the jobs of one namespace.

    Attributes:
        clock_offset_ms: how far the jobs' clock is ahead of the server's; tests move it.
    """

    def __init__(self, keys: Keys, clock_offset_ms: int = 0) -> None:
        self._keys = keys
        self.clock_offset_ms = clock_offset_ms

    def run(self, calls: Sequence[Call[Any]], *, wait_for_disk: bool) -> ScriptRun:
        """Run all calls, in their order.

        Returns:
            For each call its answer, or the error that it ended with.
        """
        wait = [("WAITAOF", 1, 0, WAIT_FOR_DISK_MS)] if wait_for_disk else []
        answers = list((yield [*map(self._command, calls), *wait]))
        unknown = [at for at in range(len(calls)) if isinstance(answers[at], NoScriptError)]
        if unknown:
            names = sorted({calls[at].script for at in unknown})
            loads = [("SCRIPT LOAD", script(name).text) for name in names]
            again = yield [*loads, *(self._command(calls[at]) for at in unknown), *wait]
            for at, answer in zip(unknown, again[len(loads) :], strict=False):
                answers[at] = answer
            answers[len(calls) :] = again[len(loads) + len(unknown) :]
        lost = _missed_disk(answers[len(calls) :])
        return [_outcome(call, lost or raw) for call, raw in zip(calls, answers, strict=False)]

    def _command(self, call: Call[Any]) -> Command:
        sha = script(call.script).sha
        return ("EVALSHA", sha, 1, self._keys.jobs, self.clock_offset_ms, *call.arguments)


def detect() -> ScriptRun:
    """Find out what the server's acknowledgements are worth.

    Returns:
        A `Durability`.
    """
    configuration, waited = yield [("CONFIG GET", "append*"), ("WAITAOF", 1, 0, 1)]
    can_wait = not isinstance(waited, RedisError)
    return durability_of(_configuration(configuration), can_wait)


def waits_for_disk(calls: Iterable[Call[Any]], durability: Durability) -> bool:
    """Whether these calls need an fsync that the server does not do by itself."""
    return durability is Durability.ASKED and any(call.durable for call in calls)


def _configuration(answer: Any) -> Mapping[str, str] | None:
    if isinstance(answer, RedisError):
        return None
    pairs = (
        answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    )
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _missed_disk(waits: Sequence[Any]) -> StateStoreError | None:
    """Why writes may not be on the disk, from what WAITAOF answered, if it was sent."""
    for answer in waits:
        if isinstance(answer, RedisError) or int(answer[0]) < 1:
            return StateStoreError("the job store did not write to its disk in time")
    return None


def _outcome(call: Call[Any], raw: Any) -> Any:
    if isinstance(raw, PenstockError):
        return raw
    if isinstance(raw, OutOfMemoryError):
        return StoreFullError("the job store is out of memory")
    if isinstance(raw, Exception):
        return StateStoreError(f"job store, {call.script}: {raw}")
    try:
        return call.parse(raw)
    except PenstockError as error:
        return error
    except (KeyError, ValueError, IndexError, TypeError) as error:
        return StateStoreError(f"job store, {call.script}: answer makes no sense: {error!r}")
