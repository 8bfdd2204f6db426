"""Runs the replicas of a worker: carries out what the supervisor decides, and brings it events.

Each event goes through `feed`, the only place that moves the supervisor; it comes from the agent, a
timer, a fetch or a child, always in the event loop. A command may bring an event at once (a process
that cannot be started): it waits its turn behind the commands of the event before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    ReplicaReport,
    ReplicaState,
)
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.process.clock import Clock
from penstock.shared.process.telemetry import get_logger
from penstock.worker.agent.devices import Machine
from penstock.worker.agent.events import (
    CancelFetch,
    Command,
    DrainReplica,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    Finished,
    Kill,
    KillReason,
    LoadRefused,
    Lose,
    Noted,
    ReplicaBeat,
    ReplicaEnded,
    ReplicaReady,
    Shutdown,
    Spawn,
    Spawned,
    SupervisionLimits,
    Terminate,
    Tick,
)
from penstock.worker.agent.findings import OWN_ENVIRONMENT, Findings, Place
from penstock.worker.agent.metrics import Label, ReplicaTotals
from penstock.worker.agent.supervisor import Supervisor
from penstock.worker.agent.wanted import (
    Assignment,
    GatewayBook,
    Wanted,
    device_for,
    local_slots,
    threads_for,
)
from penstock.worker.control.agent_end import ReplicaHandle, Spawner
from penstock.worker.control.messages import (
    Drained,
    DrainNow,
    Found,
    Gateways,
    Heartbeat,
    JobsStart,
    LoadFailed,
    Lower,
    Ready,
    RouteChanged,
    Start,
    ToAgent,
)
from penstock.worker.settings import WorkerSettings

END_TIMEOUT_S = 2.0
"""Longest wait for processes that were killed; what the kernel cannot end is left to it."""

logger = get_logger("agent")


class EnvironmentSource(Protocol):
    """Interpreters for models that want packages of their own."""

    def interpreter(self, model: Path) -> str:
        """The interpreter for the model in a folder; `prepare` was called for it before."""
        ...

    def digest(self, model: Path) -> str:
        """What tells that environment from others; `prepare` was called for it before."""
        ...

    async def prepare(self, model: Path) -> None:
        """Have it ready.

        Raises:
            PenstockError: if it cannot be had.
        """
        ...

    def keep_only(self, digests: Collection[str]) -> None:
        """Name the digests of artifacts whose environments must stay."""
        ...


class Artifacts(Protocol):
    """Where the agent has model versions from; `penstock.shared.artifacts.cache` in real life."""

    async def get(self, manifest: ArtifactManifest, source: ArtifactSource) -> Path:
        """The folder of a version, complete and verified.

        Raises:
            PenstockError: if it cannot be had; `retryable` tells whether it may be later.
        """
        ...

    def keep_only(self, digests: Collection[str]) -> None:
        """Name the digests that must not be evicted from now on."""
        ...


@dataclass
class _Child:
    """A replica process that lives.

    Attributes:
        place: what it finds out holds for that.
        began_s: when it was started, in monotonic seconds.
        drain_s: how long it may go on once it is to drain.
        unmet: which of its model's requirements are not met, once it is loaded.
    """

    label: Label
    place: Place
    handle: ReplicaHandle
    drain_s: float
    began_s: float
    unmet: str = ""


class ReplicaHost:
    """The replicas of one worker.

    Args:
        incarnation: this life of the worker.
        wanted, gateways: what the agent read last, for replicas that start.
        totals: takes in what replicas count.
        on_change: called after reports have changed in more than row counts.
        on_loss: called with each replica that served, and ended unasked, and with the jobs that it
            may have died of (None: any).
    """

    def __init__(
        self,
        *,
        incarnation: str,
        settings: WorkerSettings,
        machine: Machine,
        wanted: Wanted,
        gateways: GatewayBook,
        artifacts: Artifacts,
        environments: EnvironmentSource,
        findings: Findings,
        spawner: Spawner,
        totals: ReplicaTotals,
        clock: Clock,
        on_change: Callable[[], None],
        on_loss: Callable[[str, Collection[str] | None], None],
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._wanted = wanted
        self._gateways = gateways
        self._artifacts = artifacts
        self._environments = environments
        self._findings = findings
        findings.listen(self._lower)
        self._spawner = spawner
        self._totals = totals
        self._clock = clock
        self._on_change = on_change
        self._on_loss = on_loss
        self._supervisor = Supervisor(incarnation, limits_of(settings))
        self._children: dict[str, _Child] = {}
        self._fetches: dict[int, asyncio.Task[None]] = {}
        self._inbox: deque[Event] = deque()
        self._feeding = False
        self._child_ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._logged: dict[str, tuple[str, ReplicaState, int]] = {}

    def __repr__(self) -> str:
        return repr(self._supervisor)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and nothing is to run."""
        return self._supervisor.idle

    @property
    def processes(self) -> int:
        """How many replica processes live."""
        return len(self._children)

    @property
    def drain_s(self) -> float:
        """How long the replicas that live may go on once they are to drain."""
        return max([child.drain_s for child in self._children.values()], default=0.0)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """All replicas, for the control plane."""
        return self._supervisor.reports()

    def feed(self, event: Event) -> None:
        """Move the supervisor, and carry out what it decides."""
        self._inbox.append(event)
        if self._feeding:
            return  # carrying out a command brought this event; the loop below takes it next
        self._feeding = True
        transitions = self._supervisor.transitions
        try:
            while self._inbox:
                event = self._inbox.popleft()
                for command in self._supervisor.handle(event, self._clock.monotonic()):
                    self._carry_out(command)
        finally:
            self._feeding = False
        if self._supervisor.transitions != transitions:
            self._log_changes()
            self._on_change()
        self._arm()

    def tell(self, message: Gateways | RouteChanged, model: str | None = None) -> None:
        """Send a message to all replicas, or to those of one model."""
        for child in self._children.values():
            if model is None or child.label[0] == model:
                child.handle.send(message)

    async def catch_up(self) -> None:
        """Have replicas that run take over what replicas of other workers found out."""
        wanted = self._wanted.assignments()
        if wanted is None:
            return
        running = {child.place.revision for child in self._children.values()}
        await self._findings.catch_up({each.revision for each in wanted} | running)

    async def end_all(self) -> None:
        """End everything at once, without draining."""
        self.feed(Shutdown())  # before anything ends, or it would be started again
        for child in self._children.values():
            child.handle.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await asyncio.gather(*self._fetches.values(), return_exceptions=True)
                while self._children:
                    self._child_ended.clear()
                    await self._child_ended.wait()
                await self._spawner.all_gone()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        """Have a Tick brought at the next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._supervisor.next_deadline()
        if deadline is not None:
            delay_s = max(0.0, deadline - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, Tick())

    def _carry_out(self, command: Command) -> None:
        match command:
            case Fetch():
                self._begin_fetch(command)
            case CancelFetch():
                if command.ticket in self._fetches:
                    self._fetches[command.ticket].cancel()
            case Spawn():
                self._spawn(command)
            case Lose():
                self._on_loss(command.replica, command.begun)
            case _:
                self._end(command)

    def _begin_fetch(self, command: Fetch) -> None:
        task = asyncio.create_task(self._fetch(command))
        self._fetches[command.ticket] = task
        task.add_done_callback(lambda _: self._fetches.pop(command.ticket))

    def _end(self, command: DrainReplica | Terminate | Kill) -> None:
        child = self._children.get(command.replica)
        if child is None:
            return  # it could not be started; the event that says so is under way
        match command:
            case DrainReplica():
                child.handle.send(DrainNow(grace_s=child.drain_s))
            case Terminate():
                child.handle.terminate()
            case Kill():
                self._kill(child, command)

    def _kill(self, child: _Child, command: Kill) -> None:
        model, version = child.label
        logger.warning(
            "replica is killed",
            model=model,
            version=version,
            replica=command.replica,
            pid=child.handle.pid,
            reason=command.reason.value,
        )
        self._totals.killed(child.label, command.reason)
        child.handle.kill()

    async def _fetch(self, command: Fetch) -> None:
        assignment, ticket = command.assignment, command.ticket
        try:
            path = await self._artifacts.get(assignment.manifest, assignment.source)
            if assignment.settings.environment == "isolated":
                await self._environments.prepare(path)
            await self._findings.look(assignment.revision, self._environment(assignment, path))
        except PenstockError as error:
            self.feed(FetchFailed(assignment.key, ticket, error.message, error.retryable))
        except Exception as error:  # a disk that is full, or a client's error of any kind
            logger.exception("fetch failed", model=assignment.model, version=assignment.version)
            message = f"the artifacts cannot be had: {type(error).__name__}"
            self.feed(FetchFailed(assignment.key, ticket, message, True))
        else:
            self.feed(Fetched(assignment.key, ticket, str(path)))

    def _spawn(self, command: Spawn) -> None:
        assignment, replica, key = command.assignment, command.replica, command.assignment.key
        label = (assignment.model, assignment.version)
        device = device_for(assignment, self._machine.gpus, self._supervisor.devices_in_use())
        environment = self._environment(assignment, Path(command.path))
        place = Place(assignment.revision, environment, device)
        start = self._start(command, place)
        began_s = self._clock.monotonic()
        try:
            handle = self._spawner.spawn(
                start,
                lambda message: self._said(key, replica, message),
                lambda how: self._ended(key, replica, how),
            )
        except OSError as error:
            self.feed(ReplicaEnded(key, replica, f"cannot be started: {error.strerror}"))
            return
        drain_s = limits_of(self._settings).drain_s(assignment.settings.drain_timeout_s)
        self._children[replica] = _Child(label, place, handle, drain_s=drain_s, began_s=began_s)
        self._totals.began(label, replica, restart=command.restart)
        self.feed(Spawned(key, replica, handle.pid, start.device))

    def _environment(self, assignment: Assignment, path: Path) -> str:
        if assignment.settings.environment == "isolated":
            return self._environments.digest(path)
        return OWN_ENVIRONMENT

    def _start(self, command: Spawn, place: Place) -> Start:
        assignment = command.assignment
        isolated = assignment.settings.environment == "isolated"
        slots = local_slots(self._wanted.assignments() or ())
        threads = threads_for(assignment, self._machine.cores, slots)
        return Start(
            key=assignment.key,
            replica=command.replica,
            worker=self._settings.worker,
            model=assignment.model,
            version=assignment.version,
            revision=assignment.revision,
            model_path=command.path,
            settings=assignment.settings.model_copy(update={"threads": threads}),
            device=place.device,
            duty=assignment.duty,
            interpreter=self._environments.interpreter(Path(command.path)) if isolated else "",
            allow_cpu_fallback=self._settings.allow_cpu_fallback,
            queue_rows_max=self._settings.queue_rows_max,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            abandoned_grace_s=self._settings.abandoned_grace_s,
            error_details=self._settings.error_details == "message",
            gateways=self._gateways.addresses,
            route=self._wanted.route(assignment.model),
            keys_dir=str(self._settings.keys_dir.resolve()) if self._settings.keys_dir else None,
            jobs=self._jobs(assignment),
            finding=self._findings.known(place),
        )

    def _jobs(self, assignment: Assignment) -> JobsStart | None:
        if assignment.settings.jobs == "off" or assignment.duty == "calls":
            return None
        settings = self._settings
        return JobsStart(
            redis_url=settings.redis_url,
            namespace=settings.namespace,
            blobs_url=settings.blobs_url,
            lease_s=settings.job_lease_s,
            heartbeat_s=settings.job_heartbeat_s,
            execution_s_max=settings.job_execution_s_max,
            cancel_grace_s=settings.job_cancel_grace_s,
            store_bytes_max=settings.jobs_bytes_max,
        )

    def _said(self, key: str, replica: ReplicaId, message: ToAgent) -> None:
        """A replica speaks."""
        match message:
            case Ready():
                child = self._children[replica]
                took_s = self._clock.monotonic() - child.began_s
                self._totals.loads.observe(child.label[0], took_s)
                if message.fresh:
                    self._remember(child, message.finding)
                child.unmet = message.unmet
                note = _note(child.unmet, message.finding.reason)
                self.feed(ReplicaReady(key, replica, message.provider, note))
                known = self._findings.known(child.place)
                if known not in (None, message.finding):  # lower than when the load began
                    child.handle.send(Lower(finding=known))
            case Found():
                child = self._children[replica]
                self._remember(child, message.finding)
                self.feed(Noted(key, replica, _note(child.unmet, message.finding.reason)))
            case LoadFailed():
                self.feed(LoadRefused(key, replica, message.message, message.invalid))
            case Heartbeat():
                self._totals.beat(self._children[replica].label, replica, message)
                rows = (message.queued_rows, message.executing_rows)
                self.feed(ReplicaBeat(key, replica, *rows, message.batch_ends_in_s))
            case Drained():
                if message.replace:
                    self._totals.killed(self._children[replica].label, KillReason.JOB_CANCELED)
                self.feed(Finished(key, replica, message.replace))

    def _remember(self, child: _Child, finding: Finding) -> None:
        """Keep what a replica found out, unless the next load may well find otherwise."""
        if not finding.chance:
            self._findings.remember(child.place, finding)

    def _lower(self, place: Place) -> None:
        """Less is known of what runs there than before."""
        finding = self._findings.known(place)
        if finding is None:
            return
        for child in self._children.values():
            if child.place == place:
                child.handle.send(Lower(finding=finding))

    def _ended(self, key: str, replica: ReplicaId, how: str) -> None:
        """A replica's process is gone."""
        child = self._children.pop(replica)
        model, version = child.label
        logger.info(
            "replica ended",
            model=model,
            version=version,
            replica=replica,
            pid=child.handle.pid,
            reason=how,
        )
        self._totals.ended(child.label, replica)
        self._child_ended.set()
        self.feed(ReplicaEnded(key, replica, how, child.handle.begun_jobs))

    def _log_changes(self) -> None:
        """Log which replicas changed state since the last time."""
        logged = {}
        for report in self._supervisor.reports():
            logged[report.key] = now = (report.revision, report.state, report.restarts)
            if self._logged.get(report.key) != now:
                _log_state(report)
        self._logged = logged


def _note(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _log_state(report: ReplicaReport) -> None:
    bad = report.state in (ReplicaState.BACKOFF, ReplicaState.FAILED, ReplicaState.INVALID)
    (logger.warning if bad else logger.info)(
        "replica is " + report.state.value,
        model=report.model,
        version=report.version,
        replica=report.replica,
        pid=report.pid,
        reason=report.message,
    )


def limits_of(settings: WorkerSettings) -> SupervisionLimits:
    """The limits of supervision that the settings give."""
    return SupervisionLimits(
        parallel_loads=settings.parallel_loads,
        fetch_timeout_s=settings.fetch_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        hung_after_s=settings.hung_after_s,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        drain_grace_s=settings.drain_grace_s,
        drain_timeout_s_max=settings.drain_timeout_s_max,
    )
