"""Stores' URLs in messages hold no password."""

from __future__ import annotations

import pytest

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from penstock.shared.store.url import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://user:hunter2@host:6380/1", "rediss://host:6380/1"),
        ("redis://:hun@ter2@[::1]:6379", "redis://[::1]:6379"),
        ("unix:///run/x.sock?db=1&password=hunter2", "unix:///run/x.sock"),
        ("redis://host?password=hun@ter2", "redis://host"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@127.0.0.1:1/0", "unix:///nowhere/redis.sock?password=hunter2"],
)
async def test_errors_do_not_tell_it(url: str) -> None:
    keys = Keys("test")
    state, jobs, blocking = (
        RedisStateStore(url, keys),
        JobStore(url, keys),
        BlockingJobStore(url, keys),
    )
    with pytest.raises(StateStoreError) as first:
        await state.routing()
    with pytest.raises(StateStoreError) as second:
        await jobs.run(calls.stats())
    with pytest.raises(StateStoreError) as third:
        blocking.run(calls.stats())
    for caught in (first, second, third):
        assert "store at" in caught.value.message
        assert "hunter2" not in caught.value.message
    await state.close()
    await jobs.close()
