"""Restarts services one at a time, without failing a request.

A successor is started under a free number (`gateway-2` for `gateway-0`), so that both can live and
report themselves side by side; once it is as ready as the one that it replaces, that one is asked
to leave:

- gateways share the listening socket; the old one answers what it has, and closes no connection
  before it said so (`penstock.gateway.http.server.server`);
- a worker keeps its replicas until registry_sync has substitutes ready on others
  (`penstock.worker.agent.agent`);
- a registry_sync gives its lease up, and the successor, a standby until then, takes it.

A successor that does not get ready is ended, and the rest stays as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.up.launcher import Condition, Launcher, Part, until
from penstock.deploy.local.up.readiness import leader_exists, sync_reports, worker_reports
from penstock.deploy.local.up.restartable import Restartable
from penstock.deploy.local.up.system_plan import SystemPlan
from penstock.shared.contracts.deployment import GatewayReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore, StateStore

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rolling:
    """Restarts parts of a running local system.

    Attributes:
        namespace: prefix of the system's keys in the store.
        timeout_s: how long each successor may take to get ready.
    """

    launcher: Launcher
    plan: SystemPlan
    namespace: str
    timeout_s: float

    async def restart(self, kind: Restartable, say: Say) -> None:
        """Replace all processes of a kind, one after the other.

        Raises:
            CommandError: if a successor does not get ready; those before it stay replaced.
        """
        store = RedisStateStore(self.plan.redis_url, Keys(self.namespace))
        try:
            for old in self.launcher.parts(f"{kind.process}-"):
                await self._replace(kind, old, store, say)
        finally:
            await store.close()

    async def _replace(self, kind: Restartable, old: Part, store: StateStore, say: Say) -> None:
        spec = self.plan.numbered(kind.process, self._free_number(kind))
        begun, name = time.monotonic(), old.spec.name
        say(f"{name}: {spec.name} starts in its place")

        def ready(new: Part) -> Condition:
            match kind:
                case Restartable.GATEWAYS:
                    return _sees_as_much(store, new, old)
                case Restartable.WORKERS:
                    return worker_reports(store, new)
                case Restartable.REGISTRY_SYNC:
                    return sync_reports(store, new)

        def leaving(new: Part) -> None:
            took_s = time.monotonic() - begun
            say(f"{name}: {new.spec.name} (pid {new.pid}) is ready after {took_s:.1f} s; drains")

        await self.launcher.replace(old, spec, ready, self.timeout_s, leaving)
        if kind is Restartable.REGISTRY_SYNC:
            await self._await_leader()
        say(f"{name}: ended after {time.monotonic() - begun:.1f} s")

    async def _await_leader(self) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                await until(leader_exists(self.plan.redis_url, self.namespace))
        except TimeoutError:
            raise CommandError("no registry-sync has taken the lease over") from None

    def _free_number(self, kind: Restartable) -> int:
        taken = {part.spec.name for part in self.launcher.parts(f"{kind.process}-")}
        return next(n for n in range(len(taken) + 1) if f"{kind.process}-{n}" not in taken)


def _sees_as_much(store: StateStore, new: Part, old: Part) -> Condition:
    """A gateway knows all that the one which it replaces knows: routes, and who can be called."""

    async def ready() -> bool:
        try:
            reports = {report.pid: report for report in await store.gateways()}
        except StateStoreError:
            return False
        ours, theirs = reports.get(new.pid or 0), reports.get(old.pid or 0)
        return ours is not None and (theirs is None or _covers(ours, theirs))

    return ready


def _covers(ours: GatewayReport, theirs: GatewayReport) -> bool:
    return ours.generation >= theirs.generation and all(
        ours.ready.get(revision, 0) >= count for revision, count in theirs.ready.items()
    )
