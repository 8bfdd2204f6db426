"""A dispatch with its replicas, and what became of every call."""

from __future__ import annotations

import random

from penstock.gateway.dispatch.commands import (
    Answered,
    CallFailed,
    Command,
    SendCancel,
    SendProbe,
    SendProceed,
    SendRequest,
    Streamed,
)
from penstock.gateway.dispatch.dispatch import Dispatch
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Replica, Replicas
from penstock.gateway.inference.types import InferenceCall
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.contracts.routing import HedgePolicy, ModelRoute, RoutingTable, VersionRoute
from penstock.shared.wire.messages import Failure, Final, Load, Nack, NackReason
from penstock.shared.wire.tensors import Tensor

INTERFACE = ModelInterface(inputs=(), outputs=(), max_batch_size=8, platform="test")
X = Tensor("x", "FP32", (1, 1), b"\0\0\0\0")


def call(timeout_s: float | None = 10.0, version: str | None = None) -> InferenceCall:
    return InferenceCall("m", version, (X,), timeout_s=timeout_s)


def table(
    generation: int,
    *versions: str,
    hedge: HedgePolicy = "off",
    queue_timeout_ms: float | None = None,
) -> RoutingTable:
    routes = tuple(
        VersionRoute(version=v, revision=f"m/{v}", hedge=hedge, queue_timeout_ms=queue_timeout_ms)
        for v in versions
    )
    route = ModelRoute(model="m", generation=generation, versions=routes)
    return RoutingTable(generation=generation, models={"m": route})


class World:
    """A dispatch with its replicas, and what became of every call."""

    def __init__(self, limits: DispatchLimits | None = None, hedge: HedgePolicy = "off") -> None:
        self.routes = Routes()
        self.replicas = Replicas(silence_s=1.5)
        self.dispatch = Dispatch(
            limits or DispatchLimits(), self.routes, self.replicas, random.Random(1)
        )
        self.routes.take_table(table(1, "1", hedge=hedge))
        self.now = 0.0
        self.outcomes: dict[int, Answered | CallFailed] = {}
        self.sent: dict[int, SendRequest] = {}
        self.cancels: list[int] = []
        self.streamed: list[int] = []
        self.proceeding: list[int] = []
        self.probed: list[str] = []
        self.lives = 0

    def do(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            match command:
                case SendRequest():
                    self.sent[command.request.attempt_id] = command
                case SendProbe(name):
                    self.probed.append(name)
                case SendProceed():
                    self.proceeding.append(command.proceed.attempt_id)
                case SendCancel():
                    self.cancels.append(command.cancel.attempt_id)
                    self.sent.pop(command.cancel.attempt_id, None)
                case Answered() | CallFailed():
                    assert command.call_id not in self.outcomes, "a call resolved twice"
                    self.outcomes[command.call_id] = command
                case Streamed():
                    self.streamed.append(command.call_id)
        return commands

    def join(self, version: str = "1", worker: str = "w") -> str:
        self.lives += 1
        name = f"r{self.lives}"
        record = Replica(name, worker, "m", version, f"m/{version}", INTERFACE, self.now)
        self.replicas.add(record)
        self.do(self.dispatch.replica_ready(self.now))
        return name

    def lose(self, name: str) -> None:
        record = self.replicas.remove(name)
        assert record is not None
        self.sent = {n: c for n, c in self.sent.items() if c.replica != name}
        self.do(self.dispatch.replica_lost(record, self.now))

    def submit(
        self, number: int, timeout_s: float | None = 10.0, version: str | None = None
    ) -> None:
        self.do(self.dispatch.submit(number, call(timeout_s, version), self.now))

    def tell(self, name: str, executing: tuple[int, ...]) -> None:
        record = self.replicas.get(name)
        assert record is not None
        self.dispatch.load(record, Load(0, 0, 0, executing), self.now)

    def take_turn(self, attempt: int) -> None:
        name = self.sent[attempt].replica
        self.do(self.dispatch.suspect_turn(name, attempt))

    def answer(self, attempt: int, infer_us: int = 0) -> None:
        final = Final(attempt, infer_us=infer_us, batch_rows=1)
        self.do(self.dispatch.final(self.sent.pop(attempt).replica, final, self.now))

    def fail(self, attempt: int, code: ErrorCode) -> None:
        final = Final(attempt, failure=Failure(code, "failed"))
        self.do(self.dispatch.final(self.sent.pop(attempt).replica, final, self.now))

    def nack(self, attempt: int, reason: NackReason) -> None:
        name = self.sent.pop(attempt).replica
        self.do(self.dispatch.nack(name, Nack(attempt, reason), self.now))

    def advance(self, seconds: float) -> None:
        """Time passes, and all replicas are heard."""
        self.now += seconds
        for replica in self.replicas:
            replica.heard_at = self.now
        self.do(self.dispatch.advance(self.now))

    def pass_time(self, seconds: float) -> None:
        """Time passes, and nobody says anything."""
        self.now += seconds
        self.do(self.dispatch.advance(self.now))

    def code(self, number: int) -> ErrorCode:
        outcome = self.outcomes[number]
        assert isinstance(outcome, CallFailed)
        return outcome.error.code
