"""`penstock retry`: what is asked for, and what is refused."""

from __future__ import annotations

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.commands.retry import ask
from penstock.shared.contracts.deployment import ReplicaSettings, SyncReport, VersionStatus
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.clock import SystemClock
from tests.support.commands import penstock
from tests.support.memory_store import MemoryStateStore
from tests.unit.worker.agent_bench import deployment

pytestmark = pytest.mark.costly


async def store_with(trial: int | None) -> MemoryStateStore:
    store = MemoryStateStore(SystemClock())
    lease = await store.acquire_lease("test", 60)
    assert lease is not None
    desired = deployment(["digits"], 1)
    settings = ReplicaSettings(trial=trial)
    revisions = {
        name: each.model_copy(update={"settings": settings})
        for name, each in desired.revisions.items()
    }
    desired = desired.model_copy(update={"revisions": revisions})
    await store.apply(lease, desired, RoutingTable())
    return store


@pytest.mark.parametrize(("trial", "asked"), [(None, 1), (4, 5)])
async def test_a_trial_is_above_what_is_deployed(trial: int | None, asked: int) -> None:
    store = await store_with(trial)
    assert await ask(store, "digits") == asked
    assert await store.trials() == {"digits": asked}


async def test_a_model_that_is_not_deployed_is_refused() -> None:
    store = await store_with(None)
    with pytest.raises(CommandError, match="digit is not deployed; deployed: digits"):
        await ask(store, "digit")
    assert await store.trials() == {}


async def test_where_nothing_is_deployed_that_is_said() -> None:
    with pytest.raises(CommandError, match="digits is not deployed; no model is"):
        await ask(MemoryStateStore(SystemClock()), "digits")


def test_help() -> None:
    done = penstock("retry", "--help")
    assert done.returncode == 0
    assert "MODEL" in done.stdout


async def test_what_the_registry_has_no_more_is_not_tried_in_vain() -> None:
    store = await store_with(None)
    status = VersionStatus(model="digits", version="1", status="serving", gone=True)
    await store.report_sync(SyncReport(sync="s", node="n", pid=1, statuses=(status,)), 60)
    with pytest.raises(CommandError, match="the registry has it no more"):
        await ask(store, "digits")
    assert await store.trials() == {}
