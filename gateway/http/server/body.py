"""Reading a request's body within limits, and noticing when its sender goes away.

The memory that one request takes is at most the limit: a body that is announced as larger is not
read, and one that turns out larger, also once it is inflated, is dropped at the limit. A body that
trickles in is given up after a while, so that nobody can hold what it occupies for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

from starlette.types import Receive

from penstock.gateway.http.payload import RawHeaders
from penstock.gateway.http.server.compression import Coding, Inflater
from penstock.gateway.http.server.headers import content_length_of
from penstock.gateway.memory.held_bytes import SLOW_BODY_S, HeldShare
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import Buffer

T = TypeVar("T")


class BodyTooLargeError(PenstockError):
    """A body over the limit.

    Args:
        max_bytes: the limit.
        unread: whether its sender may still be sending.
    """

    def __init__(self, max_bytes: int, unread: bool) -> None:
        message = f"request body: expected at most {max_bytes} bytes, got more"
        super().__init__(ErrorCode.PAYLOAD_TOO_LARGE, message)
        self.unread = unread


class BodyTimeoutError(PenstockError):
    """A body that took too long to arrive; its sender may still be sending."""

    def __init__(self, timeout_s: float) -> None:
        message = f"request body: expected all of it within {timeout_s:g} s, got a part"
        super().__init__(ErrorCode.BODY_TIMEOUT, message)


def client_gone() -> PenstockError:
    """The error of a request whose client left."""
    return PenstockError(ErrorCode.CANCELLED, "the client closed the connection")


class _Patience:
    """Cancels a task that waits for too long, or for longer than there is room for slow ones."""

    def __init__(self, task: asyncio.Task[Any], share: HeldShare | None, timeout_s: float) -> None:
        self.ended: PenstockError | None = None
        self._task = task
        self._share = share
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(SLOW_BODY_S, timeout_s), self._is_slow)

    def _is_slow(self) -> None:
        if self._timeout_s <= SLOW_BODY_S:
            self._end(BodyTimeoutError(self._timeout_s))
            return
        left_s = self._timeout_s - SLOW_BODY_S
        self._timer = self._loop.call_later(left_s, self._end, BodyTimeoutError(self._timeout_s))
        if self._share is not None:
            try:
                self._share.become_ordinary()
            except PenstockError as error:
                self._end(error)

    def _end(self, error: PenstockError) -> None:
        self.stop()
        self.ended = error
        self._task.cancel()

    def stop(self) -> None:
        self._timer.cancel()


async def read_body(
    headers: RawHeaders,
    coding: Coding | None,
    receive: Receive,
    max_bytes: int,
    timeout_s: float,
    share: HeldShare | None = None,
) -> Buffer:
    """The whole body, inflated if it came in a coding.

    Args:
        share: of what the gateway holds, which grows with the body; the caller's to release.

    Raises:
        BodyTooLargeError: beyond `max_bytes`, as sent or inflated.
        BodyTimeoutError: if it took longer than `timeout_s`.
        PenstockError: CANCELLED, if the client has gone; INVALID_INPUT, if it is not in its coding;
            QUEUE_FULL, if the gateway holds as much as it may.
    """
    announced = content_length_of(headers)
    if announced is not None and announced > max_bytes:
        raise BodyTooLargeError(max_bytes, unread=True)
    task = asyncio.current_task()
    assert task is not None
    patience = _Patience(task, share, timeout_s)
    try:
        if coding is None:
            return await _read_plain(receive, max_bytes, share)
        return await _read_inflated(Inflater(coding), receive, max_bytes, share)
    except asyncio.CancelledError:
        if patience.ended is None:
            raise
        task.uncancel()
        raise patience.ended from None
    finally:
        patience.stop()


async def _read_plain(receive: Receive, max_bytes: int, share: HeldShare | None) -> Buffer:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole = cast(bytes, message.get("body", b""))  # the usual case: no copy
        if len(whole) > max_bytes:
            raise BodyTooLargeError(max_bytes, unread=False)
        if share is not None:
            share.resize(len(whole))
        return whole
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        unread = message.get("more_body", False)
        if len(body) > max_bytes:
            raise BodyTooLargeError(max_bytes, unread)
        if share is not None:
            share.resize(len(body))
        if not unread:
            return body
        message = await receive()
    raise client_gone()


async def _read_inflated(
    inflater: Inflater, receive: Receive, max_bytes: int, share: HeldShare | None
) -> Buffer:
    body = bytearray()
    received = 0
    message = await receive()
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        unread = message.get("more_body", False)
        received += len(chunk)
        if received > max_bytes:
            raise BodyTooLargeError(max_bytes, unread)
        for piece in inflater.feed(chunk):
            body += piece
            if len(body) > max_bytes:
                raise BodyTooLargeError(max_bytes, unread)
            if share is not None:
                share.resize(len(body))
            await asyncio.sleep(0)  # a piece takes a while: let others have their turn
        if not unread:
            inflater.finish()
            return body
        message = await receive()
    raise client_gone()


class _Departure:
    """Cancels a task when the client goes away."""

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self.noticed = False
        self._receive = receive
        self._task = task

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.noticed = True
        self._task.cancel()


async def unless_client_goes(work: Awaitable[T], receive: Receive) -> T:
    """Await work in this task, and cancel it at once if the client goes away.

    Args:
        work: what to await.
        receive: of the request, whose body has been read.

    Raises:
        PenstockError: CANCELLED, if the client went.
    """
    task = asyncio.current_task()
    assert task is not None
    departure = _Departure(receive, task)
    watcher = asyncio.create_task(departure.watch())
    try:
        result = await work
    except (asyncio.CancelledError, PenstockError):
        if not departure.noticed:
            raise
    finally:
        watcher.cancel()
    if departure.noticed:
        task.uncancel()
        raise client_gone()
    return result
