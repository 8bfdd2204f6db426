"""A seeded world in which the real cores run on a fake clock and a network that misbehaves.

Gateways are `penstock.gateway.dispatch.dispatch.Dispatch`, replicas are
`penstock.worker.session.session.Session`; between them messages are delayed, dropped, duplicated
and reordered, replicas crash and come back or stand still for a while, versions flip and replicas
drain. Each event happens at a time; the world takes them one by one.

Each node reads a clock of its own, which started at another time, runs at its own pace and may jump
forward: no message carries a reading of a clock, so none of that may break anything.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from penstock.gateway.dispatch.attempts import EXTRA, AttemptReason
from penstock.gateway.dispatch.commands import (
    Answered,
    CallFailed,
    SendCancel,
    SendProbe,
    SendProceed,
    SendRequest,
    Streamed,
)
from penstock.gateway.dispatch.commands import Command as GatewayCommand
from penstock.gateway.dispatch.dispatch import Dispatch
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.policies.throttle import ThrottleSettings
from penstock.gateway.dispatch.replicas import Replica, Replicas
from penstock.gateway.inference.types import InferenceCall
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import HedgePolicy, ModelRoute, RoutingTable, VersionRoute
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import (
    Alone,
    Drain,
    Envelope,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    Probe,
    SuspectTurn,
)
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from penstock.worker.replica.assembly import merge, split
from penstock.worker.session.batching import BatchLimits
from penstock.worker.session.commands import Command as ReplicaCommand
from penstock.worker.session.commands import End, Execute, Send
from penstock.worker.session.latency_model import LatencyModel
from penstock.worker.session.outcomes import Completed, FailureKind
from penstock.worker.session.outcomes import Failed as ExecutionFailed
from penstock.worker.session.run_limits import RunLimits
from penstock.worker.session.session import Session

INTERFACE = ModelInterface(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
    max_batch_size=8,
    platform="simulated",
)
POISON = 666.0
"""An input on which the model fails."""
DEATH = 999.0
"""An input on which the replica crashes."""
ATTEMPTS_MAX = 8
OPEN_ATTEMPTS_MAX = 2
"""Of one call at one time: the first, and a hedge."""

SILENCE_S = 1.5
PROBE_S = 0.1
TICK_S = 1e-6
"""A timer fires so much after its time, so that no rounding lets it fire before."""

LATE_S_MAX = 2 * TICK_S

CLOCK_START_S_MAX = 1e5

HEDGE_POLICIES: tuple[HedgePolicy, ...] = ("auto", "off", 5.0, 15.0)
HEDGE_BUDGETS = (0.0, 0.05, 0.5)
HEDGE_BURST = 10


@dataclass(frozen=True)
class Weather:
    """How badly the world behaves; chances are per message or per second.

    Attributes:
        drop, duplicate: of a message.
        delay_s: most that a message takes; those that take less overtake it.
        crash, flip, cut, pause, step: of a replica that ends, a new version, a connection that
            breaks, a replica that stands still, a clock that jumps forward.
        drift: by how much clocks run too fast or too slow, at most, as a share.
        slow: of a batch that takes twenty times as long.
        queue_rows: that a replica takes before it refuses more.
        queue_timeout_ms: of all calls.
        retries: failures of the model are tried at another replica.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.01
    crash: float = 0.0
    flip: float = 0.0
    cut: float = 0.0
    pause: float = 0.0
    step: float = 0.0
    drift: float = 0.001
    slow: float = 0.0
    queue_rows: int = 200
    queue_timeout_ms: float | None = None
    retries: bool = False


class NodeClock:
    """The monotonic clock of one node."""

    def __init__(self, world: World) -> None:
        drift = world.weather.drift
        self._world = world
        self._pace = world.rng.uniform(1.0 - drift, 1.0 + drift)
        self._offset = world.rng.uniform(0.0, CLOCK_START_S_MAX)

    def now(self) -> float:
        """What it reads."""
        return self._offset + self._pace * self._world.now

    def when(self, reading: float) -> float:
        """The world's time at which it reads so much, if it does not jump."""
        return (reading - self._offset) / self._pace

    def step(self, seconds: float) -> None:
        """It jumps forward, as one does that counts while its node sleeps."""
        self._offset += seconds


@dataclass
class SimulatedReplica:
    name: str
    version: str
    session: Session
    clock: NodeClock
    alive: bool = True
    paused_until: float = 0.0
    armed_for: float | None = None


class SimulatedGateway:
    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.clock = NodeClock(world)
        self.routes = Routes()
        self.replicas = Replicas(SILENCE_S)
        codes = {ErrorCode.MODEL_ERROR} if world.weather.retries else set()
        limits = DispatchLimits(
            replica_wait_s=2.0,
            queue_limit=10_000,
            attempts_max=ATTEMPTS_MAX,
            retry_codes=frozenset(codes),
        )
        self.dispatch = Dispatch(limits, self.routes, self.replicas, world.rng)
        self.calls = 0
        self.attempts = 0
        self.stepped_at = -1.0
        self._armed_for: float | None = None

    def carry_out(self, commands: list[GatewayCommand]) -> None:
        for command in commands:
            match command:
                case SendRequest(replica, request, number):
                    assert number <= ATTEMPTS_MAX, f"attempt {number} of a call"
                    self.attempts += 1
                    self.world.to_replica(self, replica, request)
                case SendProceed(replica, proceed):
                    self.world.to_replica(self, replica, proceed)
                case SendProbe(replica):
                    self.world.to_replica(self, replica, Probe(known=True))
                case SendCancel(replica, cancel):
                    self.world.to_replica(self, replica, cancel)
                case Answered():
                    self.world.resolved(self, command.call_id, command)
                case CallFailed():
                    self.world.resolved(self, command.call_id, command)
                case Streamed():
                    raise AssertionError("nothing streams here")
        open_attempts = sum([len(replica.attempts) for replica in self.replicas])
        assert open_attempts <= OPEN_ATTEMPTS_MAX * len(self.dispatch)
        self._arm()

    def advance(self) -> None:
        self._armed_for = None
        self.carry_out(self.dispatch.advance(self.clock.now()))

    def step(self, seconds: float) -> None:
        """The clock jumps; timers that it jumped over are due."""
        self.clock.step(seconds)
        self.stepped_at = self.world.now
        self.advance()

    def is_quiet(self) -> bool:
        """Whether no call is open, and nothing is remembered of any."""
        models = self.dispatch.models()
        return not (
            len(self.dispatch)
            or self.dispatch.parked
            or any(model.open or model.bytes or model.throttle.extra for model in models)
            or any(
                replica.attempts or replica.rows or replica.hedged_at or replica.overdue_now
                for replica in self.replicas
            )
            or any(revision.admission.open_rows for revision in self.replicas.revisions())
        )

    def check_budgets(self) -> None:
        """Hedges, and with them what was tried again though no replica was lost, were few."""
        counters = self.dispatch.counters
        hedges = counters.more_attempts[AttemptReason.HEDGE]
        allowed = HEDGE_BURST + self.world.hedge_budget * self.calls
        assert hedges <= (allowed if self.world.hedge_budget else 0), f"{hedges} hedges"
        assert not hedges or self.world.hedge != "off"
        extra = sum(counters.more_attempts[reason] for reason in EXTRA)
        answered = sum(counters.margins)
        throttle = ThrottleSettings()
        assert extra <= throttle.tokens_max / 2 + throttle.refund * answered
        assert self.attempts == counters.first_attempts + sum(counters.more_attempts.values())

    def _arm(self) -> None:
        deadline = self.dispatch.next_deadline()
        if deadline is not None and deadline != self._armed_for:
            self._armed_for = deadline
            when = max(self.clock.when(deadline), self.world.now)
            self.world.at(when + TICK_S, partial(self._fire, deadline))

    def _fire(self, deadline: float) -> None:
        if deadline == self._armed_for:  # else another timer was set meanwhile
            self.advance()

    def hear(self, replica_id: str, message: Message) -> None:
        now = self.clock.now()
        record = self.replicas.get(replica_id)
        if record is not None:
            was_silent = now - record.heard_at >= SILENCE_S
            record.heard_at = now
            if was_silent:
                self.carry_out(self.dispatch.replica_ready(now))
        match message:
            case Final():
                self.carry_out(self.dispatch.final(replica_id, message, now))
            case SuspectTurn(attempt_id):
                self.carry_out(self.dispatch.suspect_turn(replica_id, attempt_id))
            case Nack():
                self.carry_out(self.dispatch.nack(replica_id, message, now))
            case Load() if record is not None:
                self.dispatch.load(record, message, now)
            case Alone(active) if record is not None:
                record.alone = active
            case Drain() if record is not None:
                record.draining = True
            case Hello() if record is None and self.world.is_alive(replica_id):
                self.replicas.add(
                    Replica(replica_id, "w", "m", message.version, message.revision, INTERFACE, now)
                )
                self.carry_out(self.dispatch.replica_ready(now))


class World:
    """Everything, and the time."""

    def __init__(self, seed: int, weather: Weather, gateways: int = 2, replicas: int = 3) -> None:
        self.rng = random.Random(seed)
        self.weather = weather
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.gateways = {f"g{n}": SimulatedGateway(f"g{n}", self) for n in range(gateways)}
        self.replicas: dict[str, SimulatedReplica] = {}
        self.lives = itertools.count()
        self.generation = 0
        self.version = "1"
        self.inputs: dict[tuple[str, int], tuple[float, float]] = {}  # value, gateway's deadline
        self.outcomes: dict[tuple[str, int], Answered | CallFailed] = {}
        self.deaths = 0
        self.calm = False
        self.hedge: HedgePolicy = self.rng.choice(HEDGE_POLICIES)
        self.hedge_budget = self.rng.choice(HEDGE_BUDGETS)
        self.flip_to("1")
        for _ in range(replicas):
            self.spawn("1")

    # time

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def run_until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            when, _, event = heapq.heappop(self.events)
            self.now = max(self.now, when)
            event()
        self.now = end

    def run_until_quiet(self, latest: float) -> None:
        """Run until every call is resolved and every queue is empty; at the latest until a time."""
        while not self.is_quiet() and self.now < latest:
            self.run_until(min(self.now + PROBE_S, latest))

    def is_quiet(self) -> bool:
        """Whether nothing is owed to anybody any more."""
        return (
            len(self.outcomes) == len(self.inputs)
            and all(gateway.is_quiet() for gateway in self.gateways.values())
            and not any(
                replica.session.queued_rows or replica.session.executing_rows
                for replica in self.living()
            )
        )

    # network

    def _deliver(self, deliver: Callable[[], None]) -> None:
        chance = 0.0 if self.calm else self.rng.random()
        if not self.calm and chance < self.weather.drop:
            return
        copies = 2 if not self.calm and self.rng.random() < self.weather.duplicate else 1
        for _ in range(copies):
            self.after(self.rng.uniform(1e-5, self.weather.delay_s), deliver)

    def to_replica(self, gateway: SimulatedGateway, name: str, message: Message) -> None:
        def deliver() -> None:
            replica = self.replicas[name]
            if self._waits(replica, deliver):
                return
            envelope = Envelope("life-1", (message,))
            commands = replica.session.received(gateway.name, envelope, replica.clock.now())
            self.carry_out(replica, commands)

        self._deliver(deliver)

    def to_gateway(self, name: str, gateway: SimulatedGateway, message: Message) -> None:
        self._deliver(lambda: gateway.hear(name, message))

    # replicas

    def _waits(self, replica: SimulatedReplica, event: Callable[[], None]) -> bool:
        """Whether a replica is dead, or stands still and will get to an event later."""
        if replica.alive and replica.paused_until > self.now:
            self.at(replica.paused_until, event)
            return True
        return not replica.alive

    def is_alive(self, name: str) -> bool:
        return self.replicas[name].alive

    def spawn(self, version: str) -> None:
        name = f"r{next(self.lives)}"
        hello = Hello(name, "w", "m", version, f"m/{version}", b"", b"")
        limits = BatchLimits(8, 0.0, self.weather.queue_rows)
        session = Session(hello, INTERFACE, limits, LatencyModel(), RunLimits())
        self.replicas[name] = SimulatedReplica(name, version, session, NodeClock(self))
        for gateway in self.gateways.values():
            self._probe(gateway, name)

    def _probe(self, gateway: SimulatedGateway, name: str) -> None:
        """The gateway's probes: they also find a lost replica."""
        if not self.is_alive(name):
            record = gateway.replicas.remove(name)
            if record is not None:
                gateway.carry_out(gateway.dispatch.replica_lost(record, gateway.clock.now()))
            return
        self.to_replica(gateway, name, Probe(gateway.replicas.get(name) is not None))
        self.after(PROBE_S, lambda: self._probe(gateway, name))

    def carry_out(self, replica: SimulatedReplica, commands: list[ReplicaCommand]) -> None:
        now = replica.clock.now()
        commands = commands + replica.session.advance(now)
        for command in commands:
            match command:
                case Send(link, message):
                    self.to_gateway(replica.name, self.gateways[link], message)
                case Execute(items, _):
                    self._execute(replica, command)
                    assert all(item.deadline > now for item in items), "ran after expiry"
                case End():
                    self.crash(replica)
        self._arm(replica)

    def _arm(self, replica: SimulatedReplica) -> None:
        deadline = replica.session.next_deadline()
        if deadline is not None and deadline != replica.armed_for:
            replica.armed_for = deadline
            when = max(replica.clock.when(deadline), self.now)
            self.at(when + TICK_S, partial(self._fire, replica, deadline))

    def _fire(self, replica: SimulatedReplica, deadline: float) -> None:
        if deadline != replica.armed_for:
            return  # another timer was set meanwhile
        if not self._waits(replica, partial(self._fire, replica, deadline)):
            self._tick(replica)

    def _tick(self, replica: SimulatedReplica) -> None:
        replica.armed_for = None
        self.carry_out(replica, [])

    def _execute(self, replica: SimulatedReplica, execute: Execute) -> None:
        requests = [item.payload for item in execute.items]
        values = [float(array_from_tensor(r.inputs[0])[0, 0]) for r in requests]
        seconds = self.rng.uniform(0.001, 0.02)
        if not self.calm and self.rng.random() < self.weather.slow:
            seconds *= 20

        def done() -> None:
            if self._waits(replica, done):
                return
            if DEATH in values:
                self.deaths += 1
                self.crash(replica)
                return
            if POISON in values:
                failed = ExecutionFailed(FailureKind.INPUT, seconds)
                self.carry_out(replica, replica.session.executed(failed))
                return
            output = merge(requests)["x"] * int(replica.version)
            completed = Completed(split([output], requests, INTERFACE), seconds)
            self.carry_out(replica, replica.session.executed(completed))

        self.after(seconds, done)

    def cut(self) -> None:
        """A connection breaks, and is made again: the gateway gives up a replica that lives."""
        gateway = self.rng.choice(list(self.gateways.values()))
        names = [record.id for record in gateway.replicas]
        if names:
            record = gateway.replicas.remove(self.rng.choice(names))
            assert record is not None
            gateway.carry_out(gateway.dispatch.replica_lost(record, gateway.clock.now()))

    def crash(self, replica: SimulatedReplica) -> None:
        if replica.alive:
            replica.alive = False
            self.after(0.5, lambda: self.spawn(self.version))

    def pause(self, seconds: float) -> None:
        """A replica stands still; what reaches it meanwhile is there afterwards."""
        living = self.living()
        if living:
            self.rng.choice(living).paused_until = self.now + seconds

    def step_a_clock(self, seconds: float) -> None:
        """A clock jumps forward."""
        nodes: list[SimulatedGateway | SimulatedReplica] = [*self.gateways.values(), *self.living()]
        node = self.rng.choice(nodes)
        if isinstance(node, SimulatedGateway):
            node.step(seconds)
        else:
            node.clock.step(seconds)
            if not self._waits(node, partial(self._tick, node)):
                self._tick(node)

    def living(self) -> list[SimulatedReplica]:
        """Replicas that have not crashed or ended."""
        return [replica for replica in self.replicas.values() if replica.alive]

    # what happens to the system

    def flip_to(self, version: str) -> None:
        self.generation += 1
        self.version = version
        route = ModelRoute(
            model="m",
            generation=self.generation,
            versions=(
                VersionRoute(
                    version=version,
                    revision=f"m/{version}",
                    hedge=self.hedge,
                    hedge_budget=self.hedge_budget,
                    queue_timeout_ms=self.weather.queue_timeout_ms,
                ),
            ),
        )
        table = RoutingTable(generation=self.generation, models={"m": route})
        for gateway in self.gateways.values():
            gateway.routes.take_table(table)
            gateway.carry_out(gateway.dispatch.routes_changed(gateway.clock.now()))

    def swap(self) -> None:
        """A new version beside the old, a flip, and the old one drains."""
        old = self.living()
        version = str(int(self.version) + 1)
        for _ in range(2):
            self.spawn(version)

        def flip() -> None:
            self.flip_to(version)
            for replica in old:
                if replica.alive:
                    self.carry_out(replica, replica.session.drain(replica.clock.now()))

        self.after(1.0, flip)

    def submit(self, gateway: SimulatedGateway, number: int, value: float, budget_s: float) -> None:
        array = np.full((1, 1), value, np.float32)
        tensors = (tensor_from_array("x", array),)
        priority = self.rng.randint(1, 9)
        call = InferenceCall("m", None, tensors, priority=priority, timeout_s=budget_s)
        now = gateway.clock.now()
        self.inputs[gateway.name, number] = (value, now + budget_s)
        gateway.calls += 1
        try:
            commands = gateway.dispatch.submit(number, call, now)
        except PenstockError as error:
            self.resolved(gateway, number, CallFailed(number, error))
            return
        gateway.carry_out(commands)

    def resolved(
        self, gateway: SimulatedGateway, number: int, outcome: Answered | CallFailed
    ) -> None:
        key = (gateway.name, number)
        value, deadline = self.inputs[key]
        assert key not in self.outcomes, f"call {key} resolved twice"
        late_s = gateway.clock.now() - deadline
        assert late_s <= LATE_S_MAX or gateway.stepped_at == self.now, f"call {key} was late"
        self.outcomes[key] = outcome
        if isinstance(outcome, Answered):
            got = float(array_from_tensor(outcome.answer.outputs[0])[0, 0])
            assert got == value * int(outcome.answer.version), f"call {key} got another's answer"
        elif outcome.error.code is ErrorCode.MODEL_ERROR:
            assert value == POISON, f"call {key} failed of another's input"
