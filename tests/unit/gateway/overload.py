"""A small world with a fake clock: clients, gateways that admit, and replicas that batch.

Replicas take as many of the waiting calls as fit in time, highest class and earliest deadline
first, and drop what has expired, as `penstock.worker.session.batching` does. They report to
gateways every 100 ms, as `penstock.gateway.transport.router` has them do. Clients come at random,
have a deadline, and try again twice.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.gateway.dispatch.policies.admission import Admission, AdmissionSettings, Ticket

REPORT_S = 0.1
RETRIES = 2


@dataclass(frozen=True)
class Model:
    """Execution time of a batch: a line, and noise as a share of it."""

    base_s: float
    row_s: float
    max_batch_size: int
    noise: float = 0.1
    overhead_s: float = 0.0005

    def batch_s(self, rows: int) -> float:
        return self.base_s + self.row_s * rows

    def capacity(self, replicas: int) -> float:
        """Calls per second of one row at most."""
        most = self.max_batch_size
        return replicas * most / (self.batch_s(most) + self.overhead_s)


@dataclass
class Tally:
    """What became of calls, by when they were scheduled."""

    good: int = 0
    late: int = 0
    sheds: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass
class Call:
    gateway: Gateway
    ticket: Ticket
    first: float
    sent: float
    deadline: float
    priority: int
    retries: int
    replica: Replica


class Replica:
    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: list[tuple[int, float, int, Call]] = []
        self.running: list[Call] = []
        self.order = itertools.count()

    @property
    def rows(self) -> int:
        """What it reports: rows that wait, and that run, wanted still or not."""
        waiting = sum(entry[-1].deadline > self.world.now for entry in self.queue)
        return waiting + len(self.running)

    def take(self, call: Call) -> None:
        entry = (call.ticket.priority, call.deadline, next(self.order), call)
        heapq.heappush(self.queue, entry)
        if not self.running:
            self.start()

    def start(self) -> None:
        world, model = self.world, self.world.model
        earliest = float("inf")
        while self.queue and len(self.running) < model.max_batch_size:
            call = self.queue[0][-1]
            alone_s = model.batch_s(1)
            if call.deadline <= world.now or (
                self.running and world.now + alone_s * (1 - model.noise) > call.deadline
            ):
                heapq.heappop(self.queue)
                continue
            if world.now + alone_s * (1 + model.noise) <= call.deadline:
                earliest = min(earliest, call.deadline)
            batch_s = model.batch_s(len(self.running) + 1) * (1 + model.noise)
            if self.running and world.now + batch_s > earliest:
                break
            self.running.append(heapq.heappop(self.queue)[-1])
        if self.running:
            noise = 1 + model.noise * world.rng.uniform(-1, 1)
            infer_s = model.batch_s(len(self.running)) * noise
            world.after(infer_s + model.overhead_s, lambda: self.done(infer_s))

    def done(self, infer_s: float) -> None:
        ended, self.running = self.running, []
        for call in ended:
            call.gateway.answered(call, len(ended), infer_s)
        self.start()


class Gateway:
    def __init__(self, world: World) -> None:
        self.world = world
        self.admission = Admission(AdmissionSettings())
        self.expired: set[int] = set()
        self.foreign = [0] * len(world.replicas)
        self.sent = [0] * len(world.replicas)

    def reported(self) -> None:
        reports = zip(self.world.replicas, self.sent, strict=True)
        self.foreign = [max(replica.rows - own, 0) for replica, own in reports]
        model = self.world.model
        self.admission.replicas_told(len(self.foreign), sum(self.foreign), model.max_batch_size)

    def submit(self, first: float, timeout_s: float, priority: int, retries: int) -> None:
        world = self.world
        ticket = self.admission.admit(1, priority, timeout_s, world.now)
        if ticket is None:
            assert self.admission.retry_after_s(priority, timeout_s) > 0
            world.tally(first, priority).sheds += 1
            self.again(first, timeout_s, priority, retries)
            return
        picks = world.rng.sample(range(len(self.sent)), min(2, len(self.sent)))
        index = min(picks, key=lambda i: self.sent[i] + self.foreign[i])
        self.sent[index] += 1
        deadline = world.now + timeout_s
        replica = world.replicas[index]
        call = Call(self, ticket, first, world.now, deadline, priority, retries, replica)
        world.after(timeout_s, lambda: self.timed_out(call, timeout_s))
        replica.take(call)

    def settle(self, call: Call) -> bool:
        """Whether this is the first end of the call."""
        if id(call) in self.expired:
            self.expired.discard(id(call))
            return False
        self.sent[self.world.replicas.index(call.replica)] -= 1
        return True

    def answered(self, call: Call, batch_rows: int, infer_s: float) -> None:
        if not self.settle(call):
            return
        took_s = self.world.now - call.sent
        self.admission.answered(call.ticket, took_s, batch_rows, infer_s)
        call.deadline = -1.0
        tally = self.world.tally(call.first, call.priority)
        tally.good += 1
        tally.latencies.append(took_s)
        self.world.answered_at.append(self.world.now)

    def timed_out(self, call: Call, timeout_s: float) -> None:
        if call.deadline < 0:
            return
        self.settle(call)
        if call in call.replica.running:
            self.expired.add(id(call))
        self.admission.expired(call.ticket, timeout_s)
        self.world.tally(call.first, call.priority).late += 1
        self.again(call.first, timeout_s, call.priority, call.retries)

    def again(self, first: float, timeout_s: float, priority: int, retries: int) -> None:
        if retries:
            wait_s = self.world.rng.uniform(0.0, 0.1)
            self.world.after(
                wait_s,
                lambda: self.world.any_gateway().submit(first, timeout_s, priority, retries - 1),
            )


class World:
    """Everything, and the time."""

    def __init__(self, seed: int, model: Model, replicas: int, gateways: int) -> None:
        self.rng = random.Random(seed)
        self.model = model
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.replicas = [Replica(self) for _ in range(replicas)]
        self.gateways = [Gateway(self) for _ in range(gateways)]
        self.tallies: dict[tuple[int, int], Tally] = {}
        self.answered_at: list[float] = []
        self.capacity = model.capacity(replicas)
        self.report()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), event))

    def run_until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            self.now, _, event = heapq.heappop(self.events)
            event()
        self.now = end

    def report(self) -> None:
        for gateway in self.gateways:
            gateway.reported()
        self.after(REPORT_S, self.report)

    def any_gateway(self) -> Gateway:
        return self.rng.choice(self.gateways)

    def load(
        self, start: float, end: float, share: float, timeout_s: float = 0.5, priority: int = 5
    ) -> None:
        """Calls at a share of the capacity, at random times."""
        when = start
        while (when := when + self.rng.expovariate(share * self.capacity)) < end:
            self.after(
                when - self.now,
                lambda at=when: self.any_gateway().submit(at, timeout_s, priority, RETRIES),  # type: ignore[misc]
            )

    def tally(self, first: float, priority: int) -> Tally:
        """Of calls of a class that were scheduled within one tenth of a second."""
        return self.tallies.setdefault((int(first * 10), priority), Tally())

    def between(self, start: float, end: float, priority: int = 5) -> Tally:
        """Of calls of a class that were scheduled in a span of time."""
        whole = Tally()
        for (tenth, of_class), tally in self.tallies.items():
            if of_class == priority and start * 10 <= tenth < end * 10:
                whole.good += tally.good
                whole.late += tally.late
                whole.sheds += tally.sheds
                whole.latencies += tally.latencies
        return whole

    def goodput(self, start: float, end: float) -> float:
        """Calls answered in time within a span of time, as a share of the capacity."""
        answered = sum(start <= when < end for when in self.answered_at)
        return answered / (end - start) / self.capacity


def p99(latencies: list[float]) -> float:
    return sorted(latencies)[int(0.99 * (len(latencies) - 1))]
