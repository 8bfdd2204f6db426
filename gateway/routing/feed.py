"""Keeps a gateway and the state store informed of each other.

Routes come from the store; the gateway's report (where replicas dial, the generation it goes by,
the replicas it could call) goes there. Without the store the gateway goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from penstock.shared.contracts.deployment import GatewayReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.telemetry import get_logger
from penstock.shared.store.state import StateStore

log = get_logger("routing_feed")

SETTLE_S = 0.02
"""Changes within this time of each other are reported together."""

TOLD_AGAIN_S = 60.0
"""How often the log says that the store is still away: seldom enough for an outage of a day."""

FORGET_TIMEOUT_S = 1.0
"""Longest wait for the store when we leave; a report that stays expires by itself."""


class Informed(Protocol):
    """What the feed needs of the service."""

    @property
    def generation(self) -> int: ...

    @property
    def knows_routes(self) -> bool: ...

    def ready_counts(self) -> dict[str, int]: ...

    def take_routing(self, table: RoutingTable) -> None: ...

    def store_answered(self, answers: bool) -> None: ...


class RoutingFeed:
    """See the module's docstring.

    Args:
        report: what stays the same about this gateway.
        poll_s: how often the routing table is read when no change was announced.
        interval_s: how often the gateway reports when nothing changed.
        ttl_s: how long a report is valid.
        told_again_s: see `TOLD_AGAIN_S`.
    """

    def __init__(
        self,
        store: StateStore,
        report: GatewayReport,
        poll_s: float,
        interval_s: float,
        ttl_s: float,
        told_again_s: float = TOLD_AGAIN_S,
    ) -> None:
        self._store = store
        self._report = report
        self._poll_s = poll_s
        self._interval_s = interval_s
        self._ttl_s = ttl_s
        self._store_changed = asyncio.Event()
        self._gateway_changed = asyncio.Event()
        self._outage = _Outage(told_again_s)

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
                service.store_answered(True)
                self._outage.over()
            except StateStoreError as error:
                service.store_answered(False)
                self._outage.lasts(error.message, knows_routes=service.knows_routes)
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


class _Outage:
    """What the log says of a store that is away: at once, at intervals, and when it is over.

    Args:
        told_again_s: between two lines while it lasts.
    """

    def __init__(self, told_again_s: float) -> None:
        self._told_again_s = told_again_s
        self._began_at: float | None = None
        self._told_at = 0.0

    def lasts(self, reason: str, *, knows_routes: bool) -> None:
        """The store did not answer; `reason` names its address."""
        now = asyncio.get_running_loop().time()
        if self._began_at is None:
            self._began_at = now
        elif now - self._told_at < self._told_again_s:
            return
        self._told_at = now
        what = (
            "state store unreachable: going on as before"
            if knows_routes
            else "state store unreachable: waiting for it, or for replicas that tell their routes"
        )
        log.warning(what, reason=reason, for_s=round(now - self._began_at))

    def over(self) -> None:
        """The store answered."""
        if self._began_at is not None:
            lasted_s = asyncio.get_running_loop().time() - self._began_at
            self._began_at = None
            log.info("state store reachable again", after_s=round(lasted_s))


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
