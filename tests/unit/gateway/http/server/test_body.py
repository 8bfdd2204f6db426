"""Reading a body, and work that ends when its client goes, without any server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive

from penstock.gateway.http.server.body import BodyTooLargeError, read_body, unless_client_goes
from penstock.shared.contracts.errors import ErrorCode, PenstockError

GONE: Message = {"type": "http.disconnect"}


def part(body: bytes, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def receiving(*messages: Message) -> Receive:
    """A `receive` that gives these messages and then nothing more."""
    left = list(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"abcdef", False)],
        [part(b"abc", True), part(b"def", False)],
        [part(b"", True), part(b"abcdef", True), part(b"", False)],
    ],
)
async def test_a_body_in_any_pieces(messages: list[Message]) -> None:
    assert bytes(await read_body({}, None, receiving(*messages), 6, 9)) == b"abcdef"


@pytest.mark.parametrize(
    ("headers", "messages", "unread"),
    [
        ({b"content-length": b"6"}, [], True),
        ({}, [part(b"abcdef", False)], False),
        ({}, [part(b"abc", True), part(b"def", False)], False),
        ({}, [part(b"abc", True), part(b"def", True)], True),
    ],
)
async def test_a_body_over_the_limit(
    headers: dict[bytes, bytes], messages: list[Message], unread: bool
) -> None:
    with pytest.raises(BodyTooLargeError) as caught:
        await read_body(headers, None, receiving(*messages), 5, 9)
    assert caught.value.unread is unread


@pytest.mark.parametrize("messages", [[GONE], [part(b"abc", True), GONE]])
async def test_a_client_that_goes_before_its_body_ends(messages: list[Message]) -> None:
    with pytest.raises(PenstockError) as caught:
        await read_body({}, None, receiving(*messages), 100, 9)
    assert caught.value.code is ErrorCode.CANCELLED


async def test_work_that_ends_first_is_not_disturbed() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await unless_client_goes(work(), receiving()) == 7
    assert len(asyncio.all_tasks()) <= 2  # this one, and a watcher that is being cancelled


async def test_failures_of_work_pass() -> None:
    async def work() -> None:
        raise PenstockError(ErrorCode.QUEUE_FULL, "full")

    with pytest.raises(PenstockError, match="full"):
        await unless_client_goes(work(), receiving())


async def _stubborn(answer: Any) -> Any:
    """Work that turns its cancellation into something else."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if isinstance(answer, BaseException):
            raise answer from None
        return answer


@pytest.mark.parametrize(
    "reaction", [7, asyncio.CancelledError(), PenstockError(ErrorCode.INTERNAL, "other")]
)
async def test_a_client_that_goes_cancels_work_however_it_takes_it(reaction: Any) -> None:
    with pytest.raises(PenstockError) as caught:
        await unless_client_goes(_stubborn(reaction), receiving(GONE))
    assert caught.value.code is ErrorCode.CANCELLED
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_passes() -> None:
    async def outer() -> None:
        await unless_client_goes(asyncio.Event().wait(), receiving())

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
