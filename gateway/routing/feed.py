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
from penstock.shared.process.outage import Outage
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.waits import forget_report, set_within
from penstock.shared.store.state import StateStore

log = get_logger("routing_feed")

SETTLE_S = 0.02
"""Changes within this time of each other are reported together."""

TOLD_AGAIN_S = 60.0
"""How often the log says that the store is still away: seldom enough for an outage of a day."""

FORGET_TIMEOUT_S = 1.0
"""Longest wait for the store when we leave; a report that stays expires by itself."""

GOING_ON = "state store unreachable: going on as before"
WAITING = "state store unreachable: waiting for it, or for replicas that tell their routes"


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
        self._outage = Outage(log, GOING_ON, "state store reachable again", told_again_s)

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
            await forget_report(self._store.forget_gateway(self._report.gateway), FORGET_TIMEOUT_S)

    async def _read_forever(self, service: Informed) -> None:
        while True:
            self._store_changed.clear()
            try:
                service.take_routing(await self._store.routing())
                service.store_answered(True)
                self._outage.worked()
            except StateStoreError as error:
                service.store_answered(False)
                self._outage.failed(
                    GOING_ON if service.knows_routes else WAITING,
                    reason=error.message,
                    for_s=round(self._outage.for_s),
                )
            await set_within(self._store_changed, self._poll_s)

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
            await set_within(self._gateway_changed, self._interval_s)
            await asyncio.sleep(SETTLE_S)
