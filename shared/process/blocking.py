"""Blocking calls beside the event loop, in threads that nobody waits for at the end.

`asyncio.to_thread` would do, but a process waits for its threads before it exits, and a registry or
a mounted folder that hangs must not delay the end of a daemon.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Answer = TypeVar("Answer")


async def in_thread(call: Callable[[], Answer]) -> Answer:
    """What `call` returns or raises; if this is cancelled, the call goes on unheard."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(_told(error))
        else:
            future.set_result(answer)  # type: ignore[arg-type]  # None is an Answer if call says so

    def run() -> None:
        answer: Answer | None = None
        failure: BaseException | None = None
        try:
            answer = call()
        except BaseException as error:  # it belongs to whoever awaits
            failure = error
        with suppress(RuntimeError):  # the loop has ended, and nobody awaits
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, name="blocking", daemon=True).start()
    return await future


def _told(error: BaseException) -> BaseException:
    """An error that a future can hold, and that means nothing else to who awaits it.

    A future refuses StopIteration, and would never be done; a task that meets CancelledError ends
    as if somebody had cancelled it; SystemExit ends the event loop.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told
