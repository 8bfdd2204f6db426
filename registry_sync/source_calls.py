"""Calls of the registry's source, in threads, each for a limited time.

A thread that hangs, in a mount whose server is gone for one, cannot be ended. It is left behind
with the source that it holds, since a source is used by one thread at a time, and another source
takes its place. That may hang as well: so while calls hang, the next one begins only after they
have hung for twice as long as before it. There are never more than some twenty in a year, and what
hung for an hour is tried again within the next. Looks and statuses are counted apart, since a
registry that cannot be written may well be read.

Previous stop: `follower`. Next: a `RegistrySource`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from registry_sync.registry import RegistryError, RegistrySource
from registry_sync.troubles import Troubles
from shared.blocking import in_thread
from shared.clock import Clock

DOUBLINGS_MAX = 32
"""Beyond any time that a process lives."""

Kind: TypeAlias = Literal["look", "status"]

Answer = TypeVar("Answer")


class InThread(Protocol):
    """How a call that blocks is made beside the event loop."""

    def __call__(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """What the call returns or raises; if this is cancelled, the call goes on unheard."""
        ...


class SourceCalls:
    """The source that is used at present, and the calls that hang.

    Args:
        make: makes a source; called in the thread of the first call, since it may block too.
        limit_s: longest call.
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
        self._hanging: dict[asyncio.Future[Any], tuple[Kind, float]] = {}
        self._place = "the registry"
        self._hung = ""

    @property
    def hanging(self) -> int:
        """Calls that were given up and have not ended."""
        return len(self._hanging)

    async def call(self, kind: Kind, what: Callable[[RegistrySource], Answer]) -> Answer:
        """What a call of the source returns.

        Raises:
            RegistryError: if it failed, or took too long; or if others hang.
        """
        self._check_hanging(kind)
        made = self._made

        def work() -> Answer:
            if not made:
                made.append(self._make())
            return what(made[0])

        running: asyncio.Future[Answer] = asyncio.ensure_future(self._run(work))
        began_at = self._clock.monotonic()
        try:
            done, _ = await asyncio.wait({running}, timeout=self._limit_s)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if not done:
            self._leave(running, kind, began_at, made)
            raise RegistryError(self._hung)
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

    def _leave(
        self,
        running: asyncio.Future[Any],
        kind: Kind,
        began_at: float,
        made: list[RegistrySource],
    ) -> None:
        """Wait for a call no longer; what comes of it, nobody hears."""
        self._made = []
        if made:
            self._place = made[0].place
        self._hung = f"timed out after {self._limit_s:g} s ({self._place})"
        self._hanging[running] = (kind, began_at)
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Future[Any]) -> None:
        del self._hanging[running]
        if not running.cancelled():
            running.exception()  # so that asyncio does not say that nobody asked

    def _check_hanging(self, kind: Kind) -> None:
        began = [began_at for each, began_at in self._hanging.values() if each == kind]
        if not began:
            return
        doublings = min(len(began) - 1, DOUBLINGS_MAX)
        hung_s = self._clock.monotonic() - max(began)
        if hung_s < self._limit_s * 2**doublings:
            raise RegistryError(self._hung)
