"""Large bodies are read and written in a thread, so that other requests have their turn meanwhile.

Readers work in slices and let go of the interpreter between them. One that cannot, as `orjson` with
a whole document, holds it for as long as it takes; `gateway.http.element_bounds` bounds that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 2
"""Bodies read or written at a time; others wait. More would only take turns with the loop."""

T = TypeVar("T")

_threads = ThreadPoolExecutor(THREADS, "body")


async def beside_loop(work: Callable[[], T]) -> T:
    """What `work` returns, or raises, in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
