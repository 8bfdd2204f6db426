"""Which jobs a replica has begun to execute, in memory that outlives it.

An execution may end its process at any moment, so what began must be known elsewhere before it
begins, and to tell a store or an agent of each batch would cost more than many a batch. The agent
and its replica share some memory instead: the replica writes ids there, the agent reads them when
the process is gone. The newest `JOBS_MAX` are known. That is many times what a replica holds as a
rule, and what was held when it died is among the newest.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

ID_BYTES = 32
"""What an id of `penstock.shared.jobs.ids` takes."""

JOBS_MAX = 4096
"""More may be begun, and less be known of them: so who may hold more than this gets no memory."""

_BYTES = ID_BYTES * JOBS_MAX
_NONE = bytes(ID_BYTES)


def new_memory() -> int:
    """Memory for one replica, as a descriptor that a child may be given.

    Raises:
        OSError: if there is none.
    """
    descriptor = os.memfd_create("penstock-jobs-begun")
    try:
        os.ftruncate(descriptor, _BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_begun(descriptor: int) -> frozenset[str]:
    """Ids of the jobs that were begun last, by whoever has the same memory.

    Raises:
        OSError: if it cannot be read.
    """
    data = os.pread(descriptor, _BYTES, 0)
    slots = (data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES))
    return frozenset(slot.decode("ascii", "replace") for slot in slots if slot != _NONE)


class BegunJobs:
    """Writes down what begins.

    Args:
        descriptor: of `new_memory`.

    Raises:
        OSError, ValueError: if it is none.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._next = 0

    def add(self, ids: Iterable[str]) -> None:
        """These are about to be executed."""
        for each in ids:
            self._memory[self._next : self._next + ID_BYTES] = each.encode().ljust(ID_BYTES, b"\0")
            self._next = (self._next + ID_BYTES) % _BYTES
