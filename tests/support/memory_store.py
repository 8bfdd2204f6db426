"""The control plane's store in one process's memory, for unit tests and the simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from penstock.shared.contracts.deployment import Deployment, GatewayReport, SyncReport, WorkerReport
from penstock.shared.contracts.errors import LeaseLostError, StateStoreError
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.history import EVENTS_MAX, HistoryEvent, ModelPast
from penstock.shared.contracts.ids import new_system_id
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.clock import Clock
from penstock.shared.store.state import PLACES_MAX, TURNED_OFF_MAX, Lease


class MemoryStateStore:
    """The contract of `StateStore`, on any clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deployment = Deployment()
        self._routing = RoutingTable()
        self._workers: dict[str, tuple[WorkerReport, float]] = {}
        self._gateways: dict[str, tuple[GatewayReport, float]] = {}
        self._syncs: dict[str, tuple[SyncReport, float]] = {}
        self._lease: Lease | None = None
        self._lease_until = 0.0
        self._tokens = 0
        self._findings: dict[str, dict[str, Finding]] = {}
        self._findings_lowered = 0
        self._trials: dict[str, int] = {}
        self._system_id = new_system_id()
        self._turned_off: frozenset[tuple[str, str]] = frozenset()
        self._past: dict[str, ModelPast] = {}
        self._history: dict[str, list[HistoryEvent]] = {}
        self._watchers: list[Callable[[], None]] = []

    async def deployment(self) -> Deployment:
        return self._deployment

    async def routing(self) -> RoutingTable:
        return self._routing

    async def apply(self, lease: Lease, deployment: Deployment, routing: RoutingTable) -> None:
        self._check_lease(lease)
        self._deployment = deployment
        self._routing = routing
        self._notify()

    async def report_worker(self, report: WorkerReport, ttl_s: float, *, notify: bool) -> None:
        self._workers[report.worker] = (report, self._clock.monotonic() + ttl_s)
        if notify:
            self._notify()

    async def report_gateway(self, report: GatewayReport, ttl_s: float, *, notify: bool) -> None:
        self._gateways[report.gateway] = (report, self._clock.monotonic() + ttl_s)
        if notify:
            self._notify()

    async def report_sync(self, report: SyncReport, ttl_s: float) -> None:
        self._syncs[report.sync] = (report, self._clock.monotonic() + ttl_s)

    async def forget_worker(self, name: str) -> None:
        self._workers.pop(name, None)
        self._notify()

    async def forget_gateway(self, name: str) -> None:
        self._gateways.pop(name, None)
        self._notify()

    async def forget_sync(self, name: str) -> None:
        self._syncs.pop(name, None)
        self._notify()

    async def workers(self) -> list[WorkerReport]:
        now = self._clock.monotonic()
        return [report for _, (report, until) in sorted(self._workers.items()) if until > now]

    async def gateways(self) -> list[GatewayReport]:
        now = self._clock.monotonic()
        return [report for _, (report, until) in sorted(self._gateways.items()) if until > now]

    async def syncs(self) -> list[SyncReport]:
        now = self._clock.monotonic()
        return [report for _, (report, until) in sorted(self._syncs.items()) if until > now]

    async def acquire_lease(self, holder: str, ttl_s: float) -> Lease | None:
        current = self._current_lease()
        if current is not None and current.holder != holder:
            return None
        if current is None:
            self._tokens += 1
            current = Lease(holder, self._tokens)
        self._lease = current
        self._lease_until = self._clock.monotonic() + ttl_s
        return current

    async def release_lease(self, lease: Lease) -> None:
        current = self._current_lease()
        if current is not None and current.token == lease.token:
            self._lease = None

    async def findings(self, revision: str) -> dict[str, Finding]:
        return dict(self._findings.get(revision, {}))

    async def put_finding(self, revision: str, place: str, finding: Finding) -> Finding:
        places = self._findings.setdefault(revision, {})
        kept = places.get(place)
        if kept is None and len(places) >= PLACES_MAX:
            del places[next(iter(places))]
        lowers = kept is not None and finding.is_lower_than(kept)
        if kept is None or lowers:
            places[place] = kept = finding
        if lowers:
            self._findings_lowered += 1
            self._notify()
        return kept

    async def findings_lowered(self) -> int:
        return self._findings_lowered

    async def ask_trial(self, model: str, above: int = 0) -> int:
        trial = max(self._trials.get(model, 0), above) + 1
        self._trials[model] = trial
        self._notify()
        return trial

    async def trials(self) -> dict[str, int]:
        return dict(self._trials)

    async def system_id(self) -> str:
        return self._system_id

    async def turn_off(self, model: str, versions: Collection[str]) -> None:
        turned_off = self._turned_off | {(model, version) for version in versions}
        if len(turned_off) > TURNED_OFF_MAX:
            raise StateStoreError(f"more than {TURNED_OFF_MAX} versions would be turned off")
        self._turned_off = turned_off
        self._notify()

    async def turned_off(self) -> frozenset[tuple[str, str]]:
        return self._turned_off

    async def forget_turned_off(
        self, versions: Collection[tuple[str, str]], lease: Lease | None = None
    ) -> None:
        if lease is not None:
            self._check_lease(lease)
        self._turned_off -= frozenset(versions)
        self._notify()

    async def past(self) -> dict[str, ModelPast]:
        return dict(self._past)

    async def write_history(
        self,
        lease: Lease,
        past: Mapping[str, ModelPast | None],
        events: Sequence[HistoryEvent],
    ) -> None:
        self._check_lease(lease)
        kept = {**self._past, **past}
        self._past = {model: known for model, known in kept.items() if known is not None}
        for event in events:
            told = [*self._history.get(event.model, []), event]
            self._history[event.model] = told[-EVENTS_MAX:]

    async def history(self, model: str, limit: int = EVENTS_MAX) -> list[HistoryEvent]:
        return self._history.get(model, [])[-limit:]

    async def watch(self, on_change: Callable[[], None]) -> None:
        self._watchers.append(on_change)
        try:
            on_change()
            await asyncio.Event().wait()
        finally:
            self._watchers.remove(on_change)

    async def close(self) -> None:
        pass

    def _check_lease(self, lease: Lease) -> None:
        current = self._current_lease()
        if current is None or current.token != lease.token:
            raise LeaseLostError(f"{lease.holder} no longer holds the lease (token {lease.token})")

    def _current_lease(self) -> Lease | None:
        return self._lease if self._clock.monotonic() < self._lease_until else None

    def _notify(self) -> None:
        for on_change in self._watchers:
            on_change()
