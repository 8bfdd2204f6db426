"""Replicas that are there for jobs alone: what gateways learn of them, and what they never do."""

from __future__ import annotations

from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Replica, Replicas
from penstock.gateway.inference.service import InferenceService
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.routing import JobsPolicy, ModelRoute, RoutingTable, VersionRoute
from penstock.shared.process.clock import SystemClock
from penstock.shared.wire.messages import Drain, Hello

INTERFACE = ModelInterface(inputs=(), outputs=(), max_batch_size=8, platform="test", streams=True)
SILENCE_S = 1.5


def replica(name: str, *, takes_calls: bool = True) -> Replica:
    return Replica(
        id=name,
        worker="w",
        model="m",
        version="1",
        revision="m/1",
        interface=INTERFACE,
        heard_at=0.0,
        takes_calls=takes_calls,
    )


def test_a_replica_for_jobs_is_never_chosen_but_known() -> None:
    replicas = Replicas(SILENCE_S)
    replicas.add(replica("jobs", takes_calls=False))
    assert replicas.ready("m/1", 0.0) == []
    assert replicas.ready_for_jobs("m/1", 0.0) == 1
    assert replicas.ready_counts(0.0) == {"m/1": 1}
    assert replicas.connected("m/1")
    assert replicas.interface("m/1") == INTERFACE
    replicas.keep(set())
    assert [each.id for each in replicas.revisions()] == ["m/1"]
    replicas.add(replica("calls"))
    assert [each.id for each in replicas.ready("m/1", 0.0)] == ["calls"]
    assert not replicas.revision("m/1").several
    assert replicas.ready_counts(0.0) == {"m/1": 2}


def test_a_replica_for_jobs_that_is_silent_drains_or_left_is_not_ready() -> None:
    replicas = Replicas(SILENCE_S)
    first, second = replica("1", takes_calls=False), replica("2", takes_calls=False)
    replicas.add(first)
    replicas.add(second)
    first.draining = True
    assert replicas.ready_for_jobs("m/1", 0.0) == 1
    assert replicas.ready_for_jobs("m/1", 2 * SILENCE_S) == 0
    assert replicas.remove("2") is second
    assert not replicas.connected("m/1")
    assert replicas.remove("1") is first
    assert replicas.interface("m/1") is None
    replicas.keep(set())
    assert replicas.revisions() == []


def service_of(jobs: JobsPolicy) -> InferenceService:
    service = InferenceService(
        "ipc:///nowhere/g.ipc",
        "g-1",
        DispatchLimits(),
        silence_s=SILENCE_S,
        ready_when="any",
        clock=SystemClock(),
        on_change=lambda: None,
    )
    version = VersionRoute(version="1", revision="m/1", jobs=jobs)
    route = ModelRoute(model="m", generation=1, versions=(version,))
    service.take_routing(RoutingTable(generation=1, models={"m": route}))
    return service


def hello(name: str, *, takes_calls: bool) -> Hello:
    interface = INTERFACE.model_dump_json().encode()
    return Hello(name, "w", "m", "1", "m/1", interface, b"", takes_calls)


async def test_readiness_of_what_takes_jobs_alone_is_told_by_replicas_for_jobs() -> None:
    service = service_of("only")
    assert not service.model_ready("m", None)
    service.message_received("r", hello("r", takes_calls=False))
    assert service.model_ready("m", "1")
    assert service.why_not_ready() == ""
    assert service.settled()
    assert service.metadata("m", None).interface == INTERFACE
    assert [each.versions for each in service.deployed_models()] == [(("1", True),)]
    service.message_received("r", Drain())
    assert service.why_not_ready()


async def test_what_takes_calls_too_is_not_ready_by_replicas_for_jobs() -> None:
    service = service_of("shared")
    service.message_received("r", hello("r", takes_calls=False))
    assert not service.model_ready("m", None)
    assert service.why_not_ready()
    assert service.metadata("m", None).interface == INTERFACE
    assert service.ready_counts() == {"m/1": 1}
    service.message_received("r2", hello("r2", takes_calls=True))
    assert service.model_ready("m", None)
