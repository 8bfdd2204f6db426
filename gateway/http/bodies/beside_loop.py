"""Large answers are written in a thread, so that other requests have their turn meanwhile.

What runs there must let go of the interpreter every few milliseconds: see
`penstock.gateway.http.tensors.slices`. What cannot is `penstock.gateway.http.bodies.readers`'
business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from penstock.gateway.memory.trim import trim_soon

THREADS = 2
"""Answers written at a time; others wait. More would only take turns with the loop."""

T = TypeVar("T")

_threads = ThreadPoolExecutor(THREADS, "answer")


async def beside_loop(work: Callable[[], T]) -> T:
    """What `work` returns, or raises, in one of these threads."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, work)
    finally:
        trim_soon()
