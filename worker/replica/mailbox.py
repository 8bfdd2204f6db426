"""How other threads hand things to a loop that waits on file descriptors."""

from __future__ import annotations

import os
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Any thread puts, one loop collects.

    Attributes:
        wake_fd: becomes readable when something is there to be collected.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self.wake_fd, self._wake_writer = os.pipe()
        os.set_blocking(self.wake_fd, False)

    def put(self, item: T) -> None:
        """Hand something over."""
        self._items.append(item)
        os.write(self._wake_writer, b"\0")

    def collect(self) -> list[T]:
        """What was put since the last call, in order."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            return []
        return [self._items.popleft() for _ in range(len(self._items))]
