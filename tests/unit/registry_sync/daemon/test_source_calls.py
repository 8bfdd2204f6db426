"""Calls of a source that hangs, or raises what nobody foresaw."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Collection

import pytest

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.source_calls import SourceCalls
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.sources.types import (
    Registry,
    RegistryError,
    Status,
    StatusUpdate,
    VersionKey,
)
from penstock.shared.process.clock import SystemClock
from tests.simulation.sync_world import SimulatedRegistry
from tests.simulation.virtual_time import VirtualClock, in_virtual_time
from tests.unit.registry_sync.worlds import observed

LIMIT_S = 60.0


class Caller:
    """Calls of a simulated registry."""

    def __init__(self) -> None:
        self.registry = SimulatedRegistry()
        self.counts = SyncCounts()
        self.made = 0
        self.calls = SourceCalls(
            self._make, LIMIT_S, VirtualClock(), Troubles(self.counts), self.registry.in_thread
        )

    def _make(self) -> SimulatedRegistry:
        self.made += 1
        return self.registry

    async def look(self) -> Registry:
        return await self.calls.look([])


def played(scenario: Callable[[Caller], Awaitable[None]]) -> None:
    async def play() -> None:
        await scenario(Caller())

    in_virtual_time(play)


def test_a_call_that_hangs_is_given_up_and_another_source_takes_its_place() -> None:
    async def scenario(caller: Caller) -> None:
        await caller.look()
        caller.registry.delay_s = math.inf
        with pytest.raises(RegistryError, match=r"^timed out after 60 s \(the simulated registry"):
            await caller.look()
        caller.registry.delay_s = 0.0
        assert caller.calls.hanging == 1
        await caller.look()
        assert caller.made == 2
        caller.registry.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert caller.calls.hanging == 0

    played(scenario)


def test_calls_that_hang_for_ever_become_ever_rarer_and_never_end() -> None:
    async def scenario(caller: Caller) -> None:
        caller.registry.delay_s = math.inf
        began = asyncio.get_running_loop().time()
        hanging = {}
        for hours in (1, 24, 24 * 365):
            while asyncio.get_running_loop().time() - began < hours * 3600:
                with pytest.raises(RegistryError):
                    await caller.look()
                await asyncio.sleep(60.0 * hours)
            hanging[hours] = caller.calls.hanging
        assert hanging[1] <= 7
        assert hanging[1] < hanging[24] < hanging[24 * 365] <= 21

    played(scenario)


def test_what_nobody_foresaw_is_an_error_of_the_registry_and_counted() -> None:
    async def scenario(caller: Caller) -> None:
        caller.registry.trouble = lambda: KeyError("name")
        with pytest.raises(RegistryError, match=r"^KeyError: 'name'"):
            await caller.look()
        assert caller.counts.faults == 1
        caller.registry.trouble = None
        await caller.look()

    played(scenario)


class Leaving:
    """A source that raises what means something else to who awaits a thread."""

    place = "nowhere"
    model_at = ""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        raise self.error

    def write_status(self, update: StatusUpdate) -> None:
        pass


@pytest.mark.parametrize(
    "error", [StopIteration("x"), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()]
)
async def test_no_error_of_a_thread_ends_who_waits_for_it(error: BaseException) -> None:
    counts = SyncCounts()
    calls = SourceCalls(lambda: Leaving(error), LIMIT_S, SystemClock(), Troubles(counts))
    with pytest.raises(RegistryError, match=type(error).__name__):
        async with asyncio.timeout(10):
            await calls.look([])
    assert counts.faults == 1


async def test_a_source_that_cannot_be_made_is_an_error_of_the_registry() -> None:
    def make() -> Leaving:
        raise OSError(2, "No such file or directory")

    calls = SourceCalls(make, LIMIT_S, SystemClock(), Troubles(SyncCounts()))
    with pytest.raises(RegistryError, match="No such file"):
        await calls.look([])


class Mounts:
    """A source of two models, one of which may lie in a mount that is away."""

    place = "the mounts"

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.model_at = ""

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        for name in ("away", "there"):
            if name not in without:
                self.look_into(name)
        return {name: observed(name) for name in ("away", "there") if name not in without}

    def write_status(self, update: StatusUpdate) -> None:
        self.look_into(update.model)

    def look_into(self, name: str) -> None:
        self.model_at = name
        if name == "away":
            self.gate.wait(10)


async def test_a_model_that_hangs_is_left_out_until_it_answers() -> None:
    gate = threading.Event()
    calls = SourceCalls(lambda: Mounts(gate), 0.05, SystemClock(), Troubles(SyncCounts()))
    with pytest.raises(RegistryError, match=r"^timed out after 0.05 s \(the mounts\)"):
        await calls.look([])
    assert calls.hanging == 1
    assert set(await calls.look([])) == {"there"}
    with pytest.raises(RegistryError, match="timed out"):
        await calls.write_status(StatusUpdate("away", "1", Status.SERVING))
    await calls.write_status(StatusUpdate("there", "1", Status.SERVING))
    assert calls.hanging == 1
    gate.set()
    async with asyncio.timeout(10):
        while calls.hanging:
            await asyncio.sleep(0.01)
    assert set(await calls.look([])) == {"away", "there"}
