"""Faults of all kinds that a registry_sync daemon meets: how they begin, and how they end."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from penstock.registry_sync.sources.types import ObservedModel, ObservedVersion, RegistryError
from penstock.shared.contracts.deployment import ArtifactSource
from penstock.shared.contracts.errors import StateStoreError
from tests.simulation.sync_world import SyncWorld
from tests.unit.registry_sync.worlds import STABLE, observed

YEAR_S = 365 * 86_400.0

SOON_S = 30.0
"""Until a swap is made where nothing is wrong (a poll, a fetch, some plans), with a wide margin."""

FETCH_S = 200.0
"""Until a fetch that hung is given up, and the wait after it."""

ODD = ObservedModel(
    "odd \ud800 name",
    tags={"penstock.replicas": "\ud800", "penstock.\ud800": "9" * 5000},
    aliases={"champion": "\ud800"},
    versions=(
        ObservedVersion(
            "odd \ud800 name",
            "²",
            ArtifactSource(uri="models:/odd/1", tracking_uri="", identity="1"),
            {"penstock.role": "st\u0000able", "penstock.timeout_ms": "nan"},
        ),
    ),
)
"""A model in which nothing is as it should be: half a character, a version that is no number."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for a while.

    Attributes:
        within_s: after its end, a version that was named stable meanwhile serves after so long.
        lasting: it leaves something behind for ever, so that this grows with how long there have
            been faults.
    """

    begin: Callable[[SyncWorld], None]
    end: Callable[[SyncWorld], None]
    within_s: float = SOON_S
    lasting: bool = False


def _store_delay(low_s: float, high_s: float) -> Callable[[SyncWorld], None]:
    def begin(world: SyncWorld) -> None:
        for line in world.lines.values():
            line.delay_s = (low_s, high_s)

    return begin


def _store_trouble(make: Callable[[], Exception]) -> Callable[[SyncWorld], None]:
    def begin(world: SyncWorld) -> None:
        for line in world.lines.values():
            line.trouble = make

    return begin


def _store_full(world: SyncWorld) -> None:
    for line in world.lines.values():
        line.full = True


def _store_well(world: SyncWorld) -> None:
    for line in world.lines.values():
        line.delay_s, line.trouble, line.full = (0.0, 0.002), None, False


def _registry_delay(delay_s: float) -> Callable[[SyncWorld], None]:
    def begin(world: SyncWorld) -> None:
        world.registry.delay_s = delay_s

    return begin


def _registry_trouble(make: Callable[[], Exception]) -> Callable[[SyncWorld], None]:
    def begin(world: SyncWorld) -> None:
        world.registry.trouble = make

    return begin


def _registry_lost(world: SyncWorld) -> None:
    world.registry.lost = True


def _registry_refuses(world: SyncWorld) -> None:
    world.registry.refuses = True


def _registry_keeps_writers(world: SyncWorld) -> None:
    world.registry.keeps_writers = True


def _registry_odd(world: SyncWorld) -> None:
    world.registry.odd = ODD


class _Hurting(UserDict[str, str]):
    """Tags that cannot be read."""

    def items(self) -> NoReturn:
        raise KeyError("nobody foresaw this")


def _one_model_hurts(world: SyncWorld) -> None:
    world.registry.odd = replace(observed("hurts", {"1": STABLE}), tags=_Hurting())


def _registry_well(world: SyncWorld) -> None:
    world.registry.delay_s, world.registry.trouble = 0.01, None
    world.registry.lost, world.registry.refuses = False, False
    world.registry.keeps_writers = False
    world.registry.odd = None


def _registry_back(world: SyncWorld) -> None:
    _registry_well(world)
    world.registry.release()


def _fetch_trouble(make: Callable[[], Exception]) -> Callable[[SyncWorld], None]:
    def begin(world: SyncWorld) -> None:
        world.artifacts.trouble = make

    return begin


def _fetch_hangs(world: SyncWorld) -> None:
    world.artifacts.hangs = True


def _fetch_well(world: SyncWorld) -> None:
    world.artifacts.trouble, world.artifacts.hangs = None, False


def _clock(seconds: float) -> Callable[[SyncWorld], None]:
    return lambda world: world.clock.set(seconds)


def _nothing(world: SyncWorld) -> None:
    pass


FAULTS = {
    "the store answers in 1 to 2 s": Fault(_store_delay(1.0, 2.0), _store_well),
    "the store answers in 2 to 6 s": Fault(_store_delay(2.0, 6.0), _store_well),
    "the store hangs": Fault(_store_delay(100.0, 100.0), _store_well),
    "the store is away": Fault(_store_trouble(lambda: StateStoreError("refused")), _store_well),
    "the store's client raises": Fault(_store_trouble(lambda: ValueError("odd")), _store_well),
    "the store is full": Fault(_store_full, _store_well),
    "the registry is slow": Fault(_registry_delay(7.0), _registry_well),
    "the registry takes minutes": Fault(_registry_delay(100.0), _registry_well, within_s=130.0),
    "the registry hangs, and comes back": Fault(_registry_delay(math.inf), _registry_back),
    "calls of the registry hang for ever": Fault(
        _registry_delay(math.inf), _registry_well, within_s=120.0 + SOON_S, lasting=True
    ),
    "the registry is away": Fault(
        _registry_trouble(lambda: RegistryError("HTTP 503 Service Unavailable")), _registry_well
    ),
    "the source raises": Fault(_registry_trouble(lambda: KeyError("name")), _registry_well),
    "the source's memory ends": Fault(_registry_trouble(MemoryError), _registry_well),
    "the registry lost its models": Fault(_registry_lost, _registry_well),
    "the registry refuses statuses": Fault(_registry_refuses, _registry_well),
    "statuses hang": Fault(_registry_keeps_writers, _registry_back, within_s=60.0 + SOON_S),
    "a model is odd": Fault(_registry_odd, _registry_well),
    "a model cannot be understood": Fault(_one_model_hurts, _registry_well),
    "fetches raise": Fault(_fetch_trouble(lambda: KeyError("odd")), _fetch_well),
    "fetches find the disk full": Fault(
        _fetch_trouble(lambda: OSError(28, "No space left on device")), _fetch_well
    ),
    "fetches hang": Fault(_fetch_hangs, _fetch_well, within_s=FETCH_S),
    "the clock is set back a year": Fault(_clock(-YEAR_S), _nothing),
    "the clock is set forward a year": Fault(_clock(YEAR_S), _nothing),
    "the clock is set back, and forward again": Fault(_clock(-YEAR_S), _clock(YEAR_S)),
}
"""Each by what it is."""

HARMLESS = {
    "the store answers in 1 to 2 s": 60.0,  # each plan takes eight answers
    "the registry is slow": 60.0,
    "the registry takes minutes": 400.0,
    "the registry refuses statuses": SOON_S,
    "statuses hang": 60.0 + SOON_S,
    "a model is odd": SOON_S,
    "a model cannot be understood": SOON_S,
    **{name: SOON_S for name in FAULTS if name.startswith("the clock")},
}
"""Those during which swaps are made all the same, and after how many seconds at most."""
