"""Looks after the children: starts them, waits until they are ready, restarts and drains them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.data_dir import bound_log, start_log, tail_of
from penstock.deploy.local.up.announcer import Announcer
from penstock.deploy.local.up.guard import Guard
from penstock.deploy.local.up.guardian import signal_group
from penstock.deploy.local.up.processes import AdoptedChild, Child, ProcessSpec, spawn, terminate
from penstock.deploy.local.up.restart_policy import RestartPolicy

READY_POLL_S = 0.1
"""Children become ready in their own ways (a socket, a report); no one event covers them all."""

LOG_CHECK_S = 1.0
"""A model that prints without an end writes some hundred megabytes in that time, and a look costs a
call of the kernel for each child."""

Condition = Callable[[], Awaitable[bool]]


@dataclass
class Part:
    """A child with its history; `child` is None between two lives.

    Attributes:
        keeper: starts it again when it ends.
        ending: it was asked to end, once, whoever waits for that.
    """

    spec: ProcessSpec
    child: Child | None = None
    started_at: float = 0.0
    short_lives: int = 0
    keeper: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self.child.pid if self.child else None


class Launcher:
    """All children of one system.

    Args:
        guard: learns of every process group.
        announcer: says what happens.
        on_change: called after a child was started again.
    """

    def __init__(
        self,
        guard: Guard,
        announcer: Announcer,
        on_change: Callable[[], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        self._guard = guard
        self._announcer = announcer
        self._on_change = on_change
        self._policy = policy or RestartPolicy()
        self._parts: list[Part] = []
        self._keeping: asyncio.TaskGroup | None = None

    def pids(self) -> dict[str, int]:
        """What runs now, by name."""
        return {part.spec.name: part.pid for part in self._parts if part.pid is not None}

    def parts(self, prefix: str) -> list[Part]:
        """The children whose names begin so."""
        return [part for part in self._parts if part.spec.name.startswith(prefix)]

    async def start(self, spec: ProcessSpec) -> Part:
        """Start a child that is to live as long as the system."""
        start_log(spec.log)
        part = Part(spec)
        self._parts.append(part)
        await self._spawn(part)
        return part

    def adopt(self, spec: ProcessSpec, pid: int) -> Part:
        """Look after a process that runs already; its successors will be children."""
        part = Part(spec, AdoptedChild(pid), time.monotonic())
        self._parts.append(part)
        self._guard.protect(pid)
        return part

    async def run_once(self, spec: ProcessSpec) -> None:
        """Run a child that ends by itself.

        Raises:
            CommandError: if it fails.
        """
        start_log(spec.log)
        part = Part(spec)
        self._parts.append(part)
        child = await self._spawn(part)
        how = await child.wait()
        self._buried(part)
        self._parts.remove(part)
        if how != "exit status 0":
            raise _failure(part, f"failed ({how})")

    async def until_ready(self, part: Part, ready: Condition, timeout_s: float) -> None:
        """Wait until a child is ready.

        Raises:
            CommandError: with the end of its log, if it ends or takes too long.
        """
        assert part.child is not None, "until_ready comes right after start"
        ended = asyncio.ensure_future(part.child.wait())
        is_ready = asyncio.ensure_future(until(ready))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({ended, is_ready}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise _failure(part, f"was not ready after {timeout_s:.0f} s") from None
        finally:
            ended.cancel()
            is_ready.cancel()
        if ended.done() and not ended.cancelled():
            raise _failure(part, f"ended while it started ({ended.result()})")

    async def keep(self) -> None:
        """Restart whatever ends, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._keeping = tasks
            for part in self._parts:
                part.keeper = tasks.create_task(self._keep(part))

    async def replace(
        self,
        old: Part,
        spec: ProcessSpec,
        ready: Callable[[Part], Condition],
        timeout_s: float,
        on_ready: Callable[[Part], None],
    ) -> None:
        """Start a successor, and end a child once that is ready. Only while `keep` runs.

        Raises:
            CommandError: if the successor does not get ready; it is ended, and nothing changed.
        """
        assert self._keeping is not None, "what is not kept cannot be replaced"
        new = await self.start(spec)
        try:
            await self.until_ready(new, ready(new), timeout_s)
        except CommandError:
            await self._end(new)
            self._parts.remove(new)
            raise
        new.keeper = self._keeping.create_task(self._keep(new))
        on_ready(new)
        self._on_change()
        if old.keeper is not None:
            old.keeper.cancel()
            await asyncio.wait({old.keeper})
        await self._end(old)
        self._parts.remove(old)
        self._on_change()

    async def drain(self, stages: Sequence[Callable[[str], bool]]) -> None:
        """End all children, stage by stage; a stage says by name whom it covers."""
        for covers in stages:
            parts = [part for part in self._parts if part.child and covers(part.spec.name)]
            await asyncio.gather(*(self._end(part) for part in parts))

    def kill(self) -> None:
        """End all children now."""
        for part in self._parts:
            if part.child is not None:
                signal_group(part.child.pid, signal.SIGKILL)

    async def _spawn(self, part: Part) -> Child:
        part.started_at = time.monotonic()
        part.child = await spawn(part.spec)
        self._guard.protect(part.child.pid)
        return part.child

    async def _keep(self, part: Part) -> None:
        how = "is not running"
        while True:
            if part.child is not None:
                how = await part.child.wait()
                self._buried(part)
            lived_s = time.monotonic() - part.started_at
            part.short_lives = self._policy.short_lives(part.short_lives, lived_s)
            delay_s = self._policy.delay_s(part.short_lives)
            self._announcer.warn(
                f"{part.spec.name}: {how}; starts again in {delay_s:.1f} s; log: {part.spec.log}"
            )
            await asyncio.sleep(delay_s)
            try:
                await self._spawn(part)
                self._on_change()
            except CommandError as error:
                how = error.message

    async def _end(self, part: Part) -> None:
        """Ask a child to end, unless it was asked before, and wait for that."""
        if part.ending is None:
            part.ending = asyncio.create_task(self._terminate(part))
        await asyncio.shield(part.ending)

    async def _terminate(self, part: Part) -> None:
        if part.child is None:
            return
        if not await terminate(part.child, part.spec.grace_s):
            self._announcer.warn(f"{part.spec.name} was killed after {part.spec.grace_s:.0f} s")
        self._buried(part)

    def _buried(self, part: Part) -> None:
        """A child has ended: so does whatever it left in its group."""
        if part.child is not None:
            signal_group(part.child.pid, signal.SIGKILL)
            self._guard.release(part.child.pid)
            part.child = None

    async def bound_logs(self) -> None:
        """Bound the logs of all children until cancelled, while they start and drain as well."""
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for part in list(self._parts):
                with contextlib.suppress(OSError):  # a full disk must not end the system
                    await asyncio.to_thread(bound_log, part.spec.log)


async def until(ready: Condition) -> None:
    """Wait until a condition holds."""
    while not await ready():  # noqa: ASYNC110 - what changes is in another process
        await asyncio.sleep(READY_POLL_S)


def _failure(part: Part, what: str) -> CommandError:
    tail = tail_of(part.spec.log)
    detail = f"the end of {part.spec.log}:\n{tail}" if tail else ""
    return CommandError(f"{part.spec.name} {what}; log: {part.spec.log}", detail=detail)
