"""Keeps a gateway and the state store informed of each other.

Routes come from the store; the gateway's report (where replicas dial, the generation it goes by,
the replicas it could call) goes there. Without the store the gateway goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from shared.deployment import GatewayReport
from shared.errors import StateStoreError
from shared.routing import RoutingTable
from shared.state_store import StateStore
from shared.telemetry import get_logger

log = get_logger("routing_feed")

SETTLE_S = 0.02
"""Changes within this time of each other are reported together."""

FORGET_TIMEOUT_S = 1.0
"""Longest wait for the store when we leave; a report that stays expires by itself."""


class Informed(Protocol):
    """What the feed needs of the service."""

    @property
    def generation(self) -> int: ...

    def ready_counts(self) -> dict[str, int]: ...

    def take_routing(self, table: RoutingTable) -> None: ...


class RoutingFeed:
    """See the module's docstring.

    Args:
        report: what stays the same about this gateway.
        poll_s: how often the routing table is read when no change was announced.
        interval_s: how often the gateway reports when nothing changed.
        ttl_s: how long a report is valid.
    """

    def __init__(
        self,
        store: StateStore,
        report: GatewayReport,
        poll_s: float,
        interval_s: float,
        ttl_s: float,
    ) -> None:
        self._store = store
        self._report = report
        self._poll_s = poll_s
        self._interval_s = interval_s
        self._ttl_s = ttl_s
        self._store_changed = asyncio.Event()
        self._gateway_changed = asyncio.Event()
        self._reachable = True

    def gateway_changed(self) -> None:
        """The gateway has something new to report."""
        self._gateway_changed.set()

    async def run(self, service: Informed, endpoint: Callable[[], str]) -> None:
        """Feed until cancelled; then take the report back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._store.watch(self._store_changed.set))
                tasks.create_task(self._read_forever(service))
                tasks.create_task(self._report_forever(service, endpoint))
        finally:
            with contextlib.suppress(StateStoreError, TimeoutError):
                async with asyncio.timeout(FORGET_TIMEOUT_S):
                    await self._store.forget_gateway(self._report.gateway)

    async def _read_forever(self, service: Informed) -> None:
        while True:
            self._store_changed.clear()
            try:
                service.take_routing(await self._store.routing())
                self._note_reachable(None)
            except StateStoreError as error:
                self._note_reachable(error)
            await _wait(self._store_changed, self._poll_s)

    async def _report_forever(self, service: Informed, endpoint: Callable[[], str]) -> None:
        told: GatewayReport | None = None
        while True:
            self._gateway_changed.clear()
            report = self._report.model_copy(
                update={
                    "endpoint": endpoint(),
                    "generation": service.generation,
                    "ready": service.ready_counts(),
                }
            )
            with contextlib.suppress(StateStoreError):  # the reader tells of it
                await self._store.report_gateway(report, self._ttl_s, notify=report != told)
                told = report
            await _wait(self._gateway_changed, self._interval_s)
            await asyncio.sleep(SETTLE_S)

    def _note_reachable(self, error: StateStoreError | None) -> None:
        """Say once that the store went away, and once that it is back."""
        if (error is None) != self._reachable:
            self._reachable = error is None
            if error is not None:
                log.warning("state store unreachable: going on as before", reason=error.message)
            else:
                log.info("state store reachable again")


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
