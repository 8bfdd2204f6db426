"""Waits end in time, and a cancellation is heeded, whoever forgets it."""

from __future__ import annotations

import asyncio

import pytest

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.process.waits import cancellable, forget_report, set_within


async def forgetful(failure: Exception | None = None) -> str:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        if failure is not None:
            raise failure from None
    return "done"


@pytest.mark.parametrize("failure", [None, OSError("broken pipe")])
async def test_a_forgotten_cancellation_is_heeded(failure: Exception | None) -> None:
    task = asyncio.create_task(cancellable(forgetful(failure)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_timeout_around_it_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancellable(forgetful())


async def test_answers_and_errors_pass() -> None:
    async def answer() -> int:
        return 3

    async def fail() -> int:
        raise ValueError("so")

    assert await cancellable(answer()) == 3
    with pytest.raises(ValueError, match="so"):
        await cancellable(fail())


async def test_what_is_done_while_being_cancelled_is_done() -> None:
    done = []

    async def leave() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            done.append(await cancellable(asyncio.sleep(0, "told")))

    task = asyncio.create_task(leave())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["told"]


async def test_an_event_is_waited_for_but_not_for_ever() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.01)
    assert not await set_within(event, -1.0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await set_within(event, 10.0)
    assert await set_within(event, 0.0)


async def test_who_leaves_waits_for_no_store_that_is_away() -> None:
    async def refuse() -> None:
        raise StateStoreError("away")

    async def hang() -> None:
        await asyncio.Event().wait()

    await forget_report(refuse())
    await forget_report(hang(), timeout_s=0.01)
