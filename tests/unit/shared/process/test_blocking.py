"""Calls in threads, and the errors that mean something else to an event loop."""

from __future__ import annotations

import asyncio

import pytest

from penstock.shared.process.blocking import in_thread


async def test_what_a_thread_returns_or_raises_is_returned_or_raised() -> None:
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


@pytest.mark.parametrize(
    "error", [StopIteration("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_an_error_that_means_something_to_the_loop_comes_as_another(
    error: BaseException,
) -> None:
    def call() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__) as raised:
        async with asyncio.timeout(10):
            await in_thread(call)
    assert raised.value.__cause__ is error
