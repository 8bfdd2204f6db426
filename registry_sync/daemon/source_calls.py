"""Calls of the registry's source, in threads, each for a limited time.

A thread that hangs, in a mount whose server is gone for one, cannot be ended. It is left behind
with the source that it holds, since a source is used by one thread at a time, and another source
takes its place. That may hang as well: so while calls hang, the next one begins only after they
have hung for twice as long as before it. There are never more than some twenty in a year, and what
hung for an hour is tried again within the next. Looks and statuses are counted apart, since a
registry that cannot be written may well be read; and a model in which a call hangs is left out
until that ends, since its folder may be a link into a mount of its own.

A registry may also be only slow. So while a look hangs, the next one has twice as long: one that
needs some minutes is read in the end, though not often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.sources.types import (
    Registry,
    RegistryError,
    RegistrySource,
    StatusUpdate,
    VersionKey,
)
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.clock import Clock

DOUBLINGS_MAX = 32
"""Beyond any time that a process lives."""

CallKind: TypeAlias = Literal["look", "status"]

Answer = TypeVar("Answer")


class InThread(Protocol):
    """How a call that blocks is made beside the event loop."""

    def __call__(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """What the call returns or raises; if this is cancelled, the call goes on unheard."""
        ...


@dataclass(frozen=True)
class _Hanging:
    """A call that was given up; `model` is the one that it hangs in, if it is in any."""

    kind: CallKind
    model: str
    began_at: float
    message: str


class SourceCalls:
    """The source that is used at present, and the calls that hang.

    Args:
        make: makes a source; called in the thread of the first call, since it may block too.
        limit_s: longest call, if none hangs.
        troubles: where errors that nobody foresaw are told.
    """

    def __init__(
        self,
        make: Callable[[], RegistrySource],
        limit_s: float,
        clock: Clock,
        troubles: Troubles,
        run: InThread = in_thread,
    ) -> None:
        self._make = make
        self._limit_s = limit_s
        self._clock = clock
        self._troubles = troubles
        self._run = run
        self._made: list[RegistrySource] = []
        self._hanging: dict[asyncio.Future[Any], _Hanging] = {}

    @property
    def hanging(self) -> int:
        """Calls that were given up and have not ended."""
        return len(self._hanging)

    async def look(self, known: Collection[VersionKey]) -> Registry:
        """The registry; see `RegistrySource.observe`.

        Raises:
            RegistryError: if it could not be read.
        """
        without = frozenset(each.model for each in self._hanging.values() if each.model)
        return await self._call("look", "", lambda source: source.observe(known, without))

    async def write_status(self, update: StatusUpdate) -> None:
        """Write a version's status.

        Raises:
            RegistryError: if it could not be written.
        """
        await self._call("status", update.model, lambda source: source.write_status(update))

    async def _call(
        self, kind: CallKind, model: str, what: Callable[[RegistrySource], Answer]
    ) -> Answer:
        """What a call of the source returns.

        Raises:
            RegistryError: if it failed, or took too long; or if others hang.
        """
        self._check_hanging(kind, model)
        limit_s = self._limit_s if kind == "status" else self._patience_s(kind)
        made = self._made

        def work() -> Answer:
            if not made:
                made.append(self._make())
            return what(made[0])

        running: asyncio.Future[Answer] = asyncio.ensure_future(self._run(work))
        began_at = self._clock.monotonic()
        try:
            done, _ = await asyncio.wait({running}, timeout=limit_s)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not done:
            source = made[0] if made else None
            place = source.place if source is not None else "the registry"
            message = f"timed out after {limit_s:g} s ({place})"
            model = model or (source.model_at if source is not None else "")
            self._leave(running, _Hanging(kind, model, began_at, message))
            raise RegistryError(message)
        return self._answer(running)

    def _answer(self, running: asyncio.Future[Answer]) -> Answer:
        if running.cancelled():
            raise RegistryError("the call was cancelled from within")
        error = running.exception()
        if error is None:
            self._troubles.over("registry's client")
            return running.result()
        if isinstance(error, RegistryError):
            raise error
        self._troubles.fault("registry's client", error)
        raise RegistryError(f"{type(error).__name__}: {error}") from error

    def _leave(self, running: asyncio.Future[Any], hanging: _Hanging) -> None:
        """Wait for a call no longer; what comes of it, nobody hears."""
        self._made = []
        self._hanging[running] = hanging
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Future[Any]) -> None:
        del self._hanging[running]
        if not running.cancelled():
            running.exception()  # so that asyncio does not say that nobody asked

    def _check_hanging(self, kind: CallKind, model: str) -> None:
        """Raise the error of a call that hangs, if another would hang like it."""
        for each in self._hanging.values():
            if model and each.model == model:
                raise RegistryError(each.message)
        like = [each for each in self._hanging.values() if each.kind == kind]
        if not like:
            return
        newest = max(like, key=lambda each: each.began_at)
        if self._clock.monotonic() - newest.began_at < self._patience_s(kind) / 2:
            raise RegistryError(newest.message)

    def _patience_s(self, kind: CallKind) -> float:
        """The limit, doubled for each call of a kind that hangs."""
        hanging = sum(each.kind == kind for each in self._hanging.values())
        return self._limit_s * float(2 ** min(hanging, DOUBLINGS_MAX))
