"""Loops that are to run for as long as the daemon does, whatever happens in them.

A loop that ends unheard is worse than a daemon that ends: a supervisor would start that again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from penstock.registry_sync.daemon.troubles import Troubles

RESTART_DELAY_S = 1.0
"""Until a loop that failed runs again; doubled each time that it fails soon after."""

RESTART_DELAY_MAX_S = 30.0
"""Longest such wait: what made it fail may be over."""


async def keep_running(about: str, run: Callable[[], Awaitable[None]], troubles: Troubles) -> None:
    """Run a loop until cancelled; where it fails or ends, that is told, and it runs again."""
    loop = asyncio.get_running_loop()
    delay_s = RESTART_DELAY_S
    while True:
        began_at = loop.time()
        try:
            await run()
            raise RuntimeError("it ended, which it must not")
        except Exception as error:  # whatever it is, the loop is to run
            troubles.fault(about, error)
        if loop.time() - began_at > RESTART_DELAY_MAX_S:
            delay_s = RESTART_DELAY_S
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)
