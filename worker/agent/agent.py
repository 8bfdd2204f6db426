"""The worker agent: reads what is wanted, has replicas run, reports. A thin shell.

One event loop, no threads but that of the metrics endpoint. Without the store the agent goes on
with what it knows; without the agent no replica goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Collection
from typing import TypeVar

from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState, WorkerReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.ids import new_incarnation, node_name
from penstock.shared.metrics.endpoint import process_registry, serve_metrics
from penstock.shared.process.clock import Clock
from penstock.shared.process.descriptors import DescriptorWatch
from penstock.shared.process.outage import Outage
from penstock.shared.process.restarts import Restarts, RestartsCollector
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.waits import forget_report, set_within
from penstock.shared.store.state import StateStore
from penstock.worker.agent.devices import Machine
from penstock.worker.agent.events import Placed, Shutdown, SupervisionLimits
from penstock.worker.agent.findings import Findings
from penstock.worker.agent.host import Artifacts, EnvironmentSource, ReplicaHost
from penstock.worker.agent.job_losses import Losses
from penstock.worker.agent.lifecycle import STAGES, Milestone, Stage
from penstock.worker.agent.metrics import AgentCollector, ReplicaTotals
from penstock.worker.agent.wanted import GatewayBook, Wanted
from penstock.worker.control.agent_end import Spawner
from penstock.worker.control.messages import Gateways, RouteChanged
from penstock.worker.settings import WorkerSettings
from penstock.worker.transitions import after

GATHER_S = 0.05
"""Changes within this time are read, or reported, together."""

STORE_AWAY = "state store does not answer: going on as it is"

PARTS = ("store_hints", "job_losses", "descriptors")
"""Parts that replicas serve without: the store is read now and then anyway, and leases end."""

Document = TypeVar("Document")

logger = get_logger("agent")


class Agent:
    """One worker.

    Args:
        settings: limits, names and intervals.
        machine: what it has to offer.
        store: the control plane.
        artifacts: where model versions come from.
        environments: where models that want packages of their own have them from.
        spawner: what starts replicas.
        clock: tells the time.
        losses: told of replicas that die; None: nobody is.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        machine: Machine,
        store: StateStore,
        artifacts: Artifacts,
        environments: EnvironmentSource,
        spawner: Spawner,
        clock: Clock,
        losses: Losses | None = None,
        findings: Findings | None = None,
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._store = store
        self._artifacts = artifacts
        self._environments = environments
        self._clock = clock
        self._losses = losses
        self._incarnation = new_incarnation(settings.worker)
        self._wanted = Wanted(settings.worker, self._incarnation)
        self._gateways = GatewayBook()
        self._totals = ReplicaTotals()
        self._changed = asyncio.Event()
        self._host = ReplicaHost(
            incarnation=self._incarnation,
            settings=settings,
            machine=machine,
            wanted=self._wanted,
            gateways=self._gateways,
            artifacts=artifacts,
            environments=environments,
            findings=findings or Findings(store, None, machine.devices),
            spawner=spawner,
            totals=self._totals,
            clock=clock,
            on_change=self._host_changed,
            on_loss=self._replica_lost,
        )
        self._collector = AgentCollector(settings.worker)
        self._metrics_port = 0
        self._store_outage = Outage(logger, STORE_AWAY, "state store answers again")
        self._stage = Stage.RUN
        self._others_known_at = 0.0
        self._restarts = Restarts(PARTS)
        self._hinted = asyncio.Event()
        self._looked = asyncio.Event()
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Agent {self._incarnation} {self._stage.name} {self._host!r}>"

    async def run(self) -> None:
        """Serve until `stop`, or SIGTERM or SIGINT, then drain and leave.

        Raises:
            OSError: if the metrics port cannot be had.
        """
        registry = process_registry()
        registry.register(self._collector)
        registry.register(self._totals.loads)
        registry.register(RestartsCollector(self._restarts))
        settings = self._settings
        self._metrics_port = serve_metrics(registry, settings.metrics_host, settings.metrics_port)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        logger.info("worker started", incarnation=self._incarnation, devices=self._machine.devices)
        try:
            async with asyncio.TaskGroup() as group:
                keep = self._restarts.keep
                loops = [
                    group.create_task(keep("store_hints", self._watch)),
                    group.create_task(keep("descriptors", DescriptorWatch().run)),
                    group.create_task(self._follow()),
                    group.create_task(self._report()),
                ]
                if self._losses is not None:
                    loops.append(group.create_task(keep("job_losses", self._losses.run)))
                await self._over.wait()
                for task in loops:
                    task.cancel()
        finally:
            await self._leave()

    def stop(self) -> None:
        """Hand over to other workers if there are any, drain and leave; again: leave at once."""
        self._advance(Milestone.STOP)

    def _advance(self, milestone: Milestone) -> None:
        """Pass a milestone on the way out; a stage that is new begins."""
        before, self._stage = self._stage, after(STAGES, self._stage, milestone)
        if self._stage is before:
            return
        match self._stage:
            case Stage.HANDOVER:
                self._hand_over()
            case Stage.DRAIN:
                self._drain()
            case Stage.LEAVE:
                self._over.set()

    def _hand_over(self) -> None:
        """Have others take over what serves here, while it still does."""
        logger.info("worker leaves", replicas=self._host.processes)
        self._others_known_at = self._clock.monotonic()
        self._changed.set()
        if not self._serves():
            self._advance(Milestone.HANDED_OVER)
            return
        # As soon as registry_sync sees that we leave, it has substitutes made, and takes what we
        # run off our placement once they are ready. Others that could take it over are looked for
        # at every read of the documents.
        self._hinted.set()
        self._advance_after(self._settings.handover_grace_s, Milestone.HANDED_OVER)

    def _advance_after(self, delay_s: float, milestone: Milestone) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._advance, milestone)

    def _serves(self) -> bool:
        """Whether any replica here is ready, and is to stay."""
        return any(replica.state is ReplicaState.READY for replica in self._host.reports())

    async def _look_for_others(self) -> None:
        """Go on handing over only while somebody is there to take over, and to have it done.

        A read that failed says nothing of them. But when the store has not told of them for so long
        that our own report has ended, nobody takes anything over.
        """
        workers = await self._ask(self._store.workers())
        syncs = await self._ask(self._store.syncs())
        now = self._clock.monotonic()
        if workers is None or syncs is None:
            if now - self._others_known_at >= self._settings.report_ttl_s:
                self._advance(Milestone.HANDED_OVER)
            return
        self._others_known_at = now
        others = [each for each in workers if each.worker != self._settings.worker]
        if not syncs or all(each.draining for each in others):
            self._advance(Milestone.HANDED_OVER)

    def _drain(self) -> None:
        """Have all that still runs finish what it accepted, then leave."""
        logger.info("worker drains", replicas=self._host.processes)
        self._host.feed(Shutdown())
        self._host_changed()  # perhaps there is nothing to wait for
        # The supervisor ends every process in less, unless the kernel cannot end one at all.
        drain_s = max(self._settings.drain_grace_s, self._host.drain_s)
        self._advance_after(drain_s + 4 * SupervisionLimits.end_grace_s, Milestone.DRAINED)

    async def _leave(self) -> None:
        """Leave nothing behind: no process, no report."""
        await self._host.end_all()
        await forget_report(self._store.forget_worker(self._settings.worker))
        logger.info("worker left")

    # What is wanted

    async def _watch(self) -> None:
        await self._store.watch(self._hinted.set)

    async def _follow(self) -> None:
        """Read the documents when they may have changed."""
        while True:
            self._hinted.clear()
            await self._read()
            self._looked.set()
            if await set_within(self._hinted, self._settings.state_poll_s):
                await asyncio.sleep(GATHER_S)

    async def _read(self) -> None:
        routing = await self._ask(self._store.routing())
        if routing is not None:
            for route in self._wanted.take_routing(routing):
                self._host.tell(RouteChanged(route=route), route.model)
        gateways = await self._ask(self._store.gateways())
        if gateways is not None and self._gateways.update(gateways, self._clock.monotonic()):
            self._host.tell(Gateways(gateways=self._gateways.addresses))
        deployment = await self._ask(self._store.deployment())
        if deployment is not None:
            before = self._wanted.serial
            self._wanted.take_deployment(deployment)
            self._artifacts.keep_only(self._wanted.digests)
            self._environments.keep_only(self._wanted.digests)
            if self._wanted.serial != before:
                self._changed.set()  # the report says which deployment we act on
        assignments = self._wanted.assignments()
        if assignments is not None:
            self._host.feed(Placed(assignments))
        await self._host.catch_up()
        if self._stage is Stage.HANDOVER:
            await self._look_for_others()

    async def _ask(self, answer: Awaitable[Document]) -> Document | None:
        """A document, or None if it cannot be had now."""
        try:
            document = await answer
        except StateStoreError as error:
            self._store_outage.failed(error=error.message)
            return None
        self._store_outage.worked()
        return document

    # What is reported

    async def _report(self) -> None:
        """Report this worker regularly, and soon after changes."""
        await self._looked.wait()  # a worker that knows what it is to run says so at once
        self._changed.set()
        while True:
            changed = self._changed.is_set()
            self._changed.clear()
            if await self._reported(notify=changed):
                if await set_within(self._changed, self._settings.report_interval_s):
                    await asyncio.sleep(GATHER_S)
            else:
                await asyncio.sleep(self._settings.report_interval_s)
                self._changed.set()  # others may take us for gone

    async def _reported(self, *, notify: bool) -> bool:
        """Report once; whether the store took it."""
        replicas = self._host.reports()
        self._collector.publish(self._totals.snapshot(replicas))
        report = self._worker_report(replicas)
        try:
            await self._store.report_worker(report, self._settings.report_ttl_s, notify=notify)
        except StateStoreError as error:
            self._store_outage.failed(error=error.message)
            return False
        return True

    def _worker_report(self, replicas: tuple[ReplicaReport, ...]) -> WorkerReport:
        return WorkerReport(
            worker=self._settings.worker,
            incarnation=self._incarnation,
            node=node_name(),
            pid=os.getpid(),
            devices=self._machine.devices,
            cores=self._machine.cores,
            memory_bytes=self._settings.memory_bytes or self._machine.memory_bytes,
            device_memory_bytes=dict(self._machine.device_memory_bytes),
            deployment_serial=self._wanted.serial,
            draining=self._stage is not Stage.RUN,
            metrics_port=self._metrics_port,
            replicas=replicas,
        )

    def _replica_lost(self, replica: str, begun: Collection[str] | None) -> None:
        if self._losses is not None:
            self._losses.add(replica, begun)

    def _host_changed(self) -> None:
        """What is to be reported is no longer what was."""
        self._changed.set()
        if self._stage is Stage.HANDOVER and not self._serves():
            self._advance(Milestone.HANDED_OVER)
        if self._stage is Stage.DRAIN and self._host.idle:
            self._advance(Milestone.DRAINED)
