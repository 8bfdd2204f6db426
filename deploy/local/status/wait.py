"""`penstock wait MODEL`: look at the store until a model has come to what is wanted.

The store is read as `penstock status` reads it; what is wanted is judged in `goals`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import one_line
from penstock.deploy.local.jobs.gateway_client import GatewayAwayError, GatewayClient
from penstock.deploy.local.status.document import ModelStatus, SystemStatus, summary_of
from penstock.deploy.local.status.gateway import TIMEOUT_S, ask, judge_gateway
from penstock.deploy.local.status.goals import (
    Goal,
    GoalOutcome,
    Judgement,
    VersionState,
    is_over,
    judge,
)
from penstock.deploy.local.system.system_file import read_system
from penstock.registry_sync.sources.types import Status
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore

LOOK_EVERY_S = 0.5
"""Between two looks: statuses are written to the store once a second."""

EXIT_CODES = {GoalOutcome.REACHED: 0, GoalOutcome.FAILED: 1, GoalOutcome.PENDING: 3}
"""2 is a mistake in how the command was called."""

Seen = TypeVar("Seen")

_ADVANCE = (Status.SERVING, Status.LOADING, Status.FAILED, Status.INVALID, Status.DRAINING)
"""Of several revisions of a version, the first of these tells where it is."""


def states_of(model: ModelStatus) -> list[VersionState]:
    """Every version of a model once; a phase, where registry_sync told no status."""
    states: dict[str, VersionState] = {}
    for each in sorted(model.revisions, key=lambda each: _ADVANCE.index(Status(each.phase))):
        state = VersionState(each.version, each.phase, each.message, deployed=True)
        states.setdefault(each.version, state)
    for told in model.versions:
        deployed = told.version in states
        states[told.version] = VersionState(told.version, told.status, told.message, deployed)
    return list(states.values())


async def wait_for(
    look: Callable[[], Awaitable[Seen]],
    decide: Callable[[Seen], Judgement],
    timeout_s: float,
    tell: Callable[[str], None],
) -> tuple[Judgement, float]:
    """What it came to, and after how many seconds; whatever changes meanwhile is told.

    A store, or a gateway, that does not answer is asked again. At least one look is taken.
    """
    began_at = time.monotonic()
    first: Judgement | None = None
    before = ""
    while True:
        try:
            now = decide(await look())
        except StateStoreError as error:
            now = Judgement(GoalOutcome.PENDING, f"the state store does not answer: {error}")
        except GatewayAwayError as away:
            now = Judgement(GoalOutcome.PENDING, away.message)
        else:
            first = first or now
        waited_s = time.monotonic() - began_at
        if is_over(now, first or now, waited_s) or waited_s >= timeout_s:
            return now, waited_s
        if now.reason != before:
            tell(now.reason)
        before = now.reason
        await asyncio.sleep(min(LOOK_EVERY_S, timeout_s - waited_s))


def _states(status: SystemStatus, model: str) -> list[VersionState]:
    found = next((each for each in status.models if each.model == model), None)
    return states_of(found) if found is not None else []


async def _wait_at(
    store: RedisStateStore,
    decide: Callable[[SystemStatus], Judgement],
    timeout_s: float,
    tell: Callable[[str], None],
) -> tuple[Judgement, float]:
    try:
        return await wait_for(lambda: summary_of(store), decide, timeout_s, tell)
    finally:
        await store.close()


def run_wait(
    model: str,
    version: str | None,
    goal: Goal,
    timeout_s: float,
    data_dir: Path,
    redis_url: str | None,
    namespace: str,
) -> int:
    """Wait, telling what changes; the last line says why it is over. Returns the exit code.

    Raises:
        CommandError: if no system is found, the store has no such URL, or the timeout is no number.
    """
    _check(timeout_s)
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    try:
        store = RedisStateStore(redis_url, Keys(namespace))
    except ValueError as error:
        raise CommandError(f"--redis-url: {error}", exit_code=2) from error

    def decide(status: SystemStatus) -> Judgement:
        if goal is Goal.RETIRED and not status.syncs:  # what is only wished for is told by them
            return Judgement(GoalOutcome.PENDING, "no registry_sync tells what is asked for")
        return judge(goal, _states(status, model), version)

    tell = _teller(model)
    now, waited_s = asyncio.run(_wait_at(store, decide, timeout_s, tell))
    return _conclude(now, waited_s, goal, tell)


def run_gateway_wait(
    model: str, version: str | None, goal: Goal, timeout_s: float, url: str
) -> int:
    """Wait likewise until a gateway serves the model, by what that says. Returns the exit code.

    Raises:
        CommandError: if the URL or the timeout is none, or the goal is nothing that gateways know.
    """
    _check(timeout_s)
    if goal is not Goal.SERVING:
        raise CommandError("--url: a gateway knows of serving alone; ask the store", exit_code=2)
    client = GatewayClient(url, TIMEOUT_S)
    tell = _teller(model)
    waiting = wait_for(
        lambda: asyncio.to_thread(ask, client),
        lambda status: judge_gateway(status, goal, model, version),
        timeout_s,
        tell,
    )
    now, waited_s = asyncio.run(waiting)
    return _conclude(now, waited_s, goal, tell)


def _check(timeout_s: float) -> None:
    if math.isnan(timeout_s):  # which is within every range
        raise CommandError("--timeout: expected a number of seconds", exit_code=2)


def _teller(model: str) -> Callable[[str], None]:
    name = one_line(model)
    return lambda line: print(f"{name}: {one_line(line)}", flush=True)


def _conclude(now: Judgement, waited_s: float, goal: Goal, tell: Callable[[str], None]) -> int:
    match now.outcome:
        case GoalOutcome.REACHED:
            tell(now.reason)
        case GoalOutcome.FAILED:
            tell(f"{now.outcome.value}: {now.reason}")
        case GoalOutcome.PENDING:
            tell(f"not {goal.value} after {waited_s:.0f} s: {now.reason}")
    return EXIT_CODES[now.outcome]
