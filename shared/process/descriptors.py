"""Says that a process is about to run out of file descriptors, or has.

Where there are none left, connections are closed as they come in, without a word by the library
that accepts them; nothing else would say why clients are turned away.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource

from penstock.shared.process.telemetry import get_logger

log = get_logger("descriptors")

LOOK_S = 1.0
"""How often is looked: two calls of the kernel."""

NEAR = 0.95
"""Share of the limit from which it is said: the next burst may take the rest."""

WELL = 0.85
"""Share of the limit below which it is over, so that it is not said again and again."""


class DescriptorWatch:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._short = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Look, and say what has changed."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return
        lowest = _lowest_free()
        share = 1.0 if lowest is None else lowest / limit
        if share >= NEAR and not self._short:
            self._short = True
            log.error(
                "out of file descriptors: connections are turned away"
                if lowest is None
                else "few file descriptors are left",
                limit=limit,
                remedy="raise the limit (ulimit -n, LimitNOFILE=), or add processes",
            )
        elif share < WELL and self._short:
            self._short = False
            log.info("there are file descriptors again", limit=limit)


def _lowest_free() -> int | None:
    """The number that the next descriptor would get; all below it are taken. None: there is none.

    Raises:
        OSError: for any other reason.
    """
    try:
        descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return None
        raise
    os.close(descriptor)
    return descriptor
