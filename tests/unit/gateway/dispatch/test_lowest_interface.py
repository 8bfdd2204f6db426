"""Replicas of one revision that announce different things: clients see the lowest, and it alone."""

from __future__ import annotations

from itertools import permutations

from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Replica, Replicas
from penstock.gateway.inference.service import InferenceService
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.clock import SystemClock
from penstock.shared.wire.messages import Hello

REVISION = "m/1"


def interface(rows: int, *shape: int) -> ModelInterface:
    spec = TensorSpec(name="x", datatype="FP32", shape=shape or (-1, 3))
    return ModelInterface(inputs=(spec,), outputs=(spec,), max_batch_size=rows, platform="test")


def replica(name: str, takes: ModelInterface, *, takes_calls: bool = True) -> Replica:
    return Replica(
        id=name,
        worker="w",
        model="m",
        version="1",
        revision=REVISION,
        interface=takes,
        heard_at=0.0,
        takes_calls=takes_calls,
    )


def shown(*replicas: Replica) -> ModelInterface | None:
    known = Replicas(1.5)
    for each in replicas:
        known.add(each)
    return known.interface(REVISION)


def test_the_lowest_interface_holds_whichever_replica_came_first() -> None:
    different = (interface(32), interface(8), interface(0), interface(0, 4, 3))
    answers = {
        shown(*(replica(str(number), each) for number, each in enumerate(order)))
        for order in permutations(different)
    }
    (answer,) = answers
    assert answer is not None
    assert answer.max_batch_size == 0


def test_a_replica_for_jobs_that_is_not_batched_counts_too() -> None:
    calls, jobs = replica("c", interface(8)), replica("j", interface(0), takes_calls=False)
    assert shown(calls, jobs) == interface(0)


def test_rows_are_counted_as_the_lowest_has_them_and_as_before_once_it_is_gone() -> None:
    known = Replicas(1.5)
    known.add(replica("low", interface(0)))
    known.add(replica("high", interface(8)))
    assert not known.revision(REVISION).batches
    known.remove("low")
    assert known.revision(REVISION).batches
    assert known.interface(REVISION) == interface(8)
    known.remove("high")
    assert known.interface(REVISION) is None
    assert known.revision(REVISION).batches, "calls that wait for a replica have rows still"


def hello(name: str, takes: ModelInterface) -> Hello:
    return Hello(name, "w", "m", "1", REVISION, takes.model_dump_json().encode(), b"")


async def test_clients_are_told_of_the_lowest_as_soon_as_one_replica_announces_it() -> None:
    service = InferenceService(
        "ipc:///nowhere/g.ipc",
        "g-1",
        DispatchLimits(),
        silence_s=1.5,
        ready_when="any",
        clock=SystemClock(),
        on_change=lambda: None,
    )
    route = ModelRoute(
        model="m", generation=1, versions=(VersionRoute(version="1", revision=REVISION),)
    )
    service.take_routing(RoutingTable(generation=1, models={"m": route}))
    rows = []
    for name, most in (("1", 8), ("2", 8), ("2", 0), ("3", 8), ("1", 0), ("3", 0)):
        service.message_received(name, hello(name, interface(most)))
        rows.append(service.metadata("m", None).interface.max_batch_size)
    assert rows == [8, 8, 0, 0, 0, 0]
    for name in "12":
        service.replica_lost(name)
    service.message_received("4", hello("4", interface(8)))
    service.replica_lost("4")
    service.replica_lost("3")
    assert service.metadata("m", None).interface.max_batch_size == 0, "what was known last"
