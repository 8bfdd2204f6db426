"""The bound on bytes of open calls, over many models."""

from __future__ import annotations

import pytest

from penstock.gateway.dispatch.attempts import OpenCall
from penstock.gateway.dispatch.counters import DispatchCounters, ShedReason
from penstock.gateway.dispatch.intake import Intake
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Replicas
from penstock.gateway.inference.types import InferenceCall
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.wire.tensors import Tensor

LIMIT = 10_000
MODELS = [f"m{number}" for number in range(40)]
SIZE = 10


class Bench:
    """An intake for many models."""

    def __init__(self, held: HeldBytes) -> None:
        self.held = held
        self.counters = DispatchCounters()
        self.calls: list[OpenCall] = []
        self.refusals: list[ErrorCode] = []
        routes = Routes()
        models = {
            name: ModelRoute(
                model=name, generation=1, versions=(VersionRoute(version="1", revision=name),)
            )
            for name in MODELS
        }
        routes.take_table(RoutingTable(generation=1, models=models))
        limits = DispatchLimits(queue_bytes_limit=LIMIT)
        self.intake = Intake(limits, routes, Replicas(silence_s=1.5), self.counters, held)

    def accept(self, model: str, size_bytes: int = SIZE) -> bool:
        tensor = Tensor("x", "UINT8", (1, size_bytes), bytes(size_bytes))
        request = InferenceCall(model, None, (tensor,), timeout_s=10.0)
        try:
            self.calls.append(self.intake.accept(len(self.calls), request, 0.0))
        except PenstockError as error:
            self.refusals.append(error.code)
            return False
        return True

    def flood(self, model: str) -> None:
        while self.accept(model):
            pass

    def held_of(self, model: str) -> int:
        return sum(call.size_bytes for call in self.calls if call.model.name == model)


def test_the_limit_holds_over_all_models_together_and_each_has_something() -> None:
    bench = Bench(HeldBytes())
    for model in MODELS:
        bench.flood(model)
    sizes = [bench.held_of(model) for model in MODELS]
    assert sum(sizes) == bench.held.total <= LIMIT
    assert bench.counters.sheds[ShedReason.BYTES] == len(MODELS)
    assert bench.refusals == [ErrorCode.QUEUE_FULL] * len(MODELS)
    assert sizes[0] >= LIMIT * 0.85
    assert all(sizes[:3])
    for call in bench.calls:
        bench.intake.close(call)
    assert bench.held.total == 0


def test_models_in_turn_have_equal_shares() -> None:
    bench = Bench(HeldBytes())
    for _ in range(LIMIT):
        for model in MODELS[:5]:
            bench.accept(model)
    sizes = [bench.held_of(model) for model in MODELS[:5]]
    assert max(sizes) - min(sizes) <= 2 * SIZE
    assert sum(sizes) > LIMIT * 0.9
    assert bench.accept(MODELS[7])


def test_a_call_larger_than_all_that_is_free_is_shed_whatever_its_model_has() -> None:
    bench = Bench(HeldBytes())
    assert bench.accept("m0", LIMIT - 5)
    assert not bench.accept("m1", 6)
    assert bench.accept("m1", 5)


def test_open_calls_keep_to_the_gateways_budget() -> None:
    bench = Bench(HeldBytes(1000, 0))
    bench.flood("m0")
    assert bench.held.total == 1000
    with pytest.raises(PenstockError, match="as many bytes as it may"):
        bench.intake.accept(
            -1, InferenceCall("m1", None, (Tensor("x", "UINT8", (1, 1), b"0"),), timeout_s=1.0), 0.0
        )
