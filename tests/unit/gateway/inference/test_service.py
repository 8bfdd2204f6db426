"""The shell around dispatch, in the event loop that gateways run in."""

from __future__ import annotations

import pytest
import uvloop

from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.service import InferenceService
from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.process.clock import SystemClock

ROUTE = ModelRoute(model="m", generation=1, versions=(VersionRoute(version="1", revision="m/1"),))


def _service_without_replicas() -> InferenceService:
    service = InferenceService(
        "ipc:///nowhere/g.ipc",
        "g-1",
        DispatchLimits(),
        silence_s=1.5,
        ready_when="any",
        clock=SystemClock(),
        on_change=lambda: None,
    )
    service.take_routing(RoutingTable(generation=1, models={"m": ROUTE}))
    return service


async def _submit_with_deadlines_that_have_come() -> list[CallOutcome]:
    service = _service_without_replicas()
    outcomes: list[CallOutcome] = []
    for _ in range(2):
        service.submit(InferenceCall("m", None, (), timeout_s=0.0), outcomes.append)
    try:
        await service.infer(InferenceCall("m", None, (), timeout_s=0.01))
    except PenstockError as error:
        outcomes.append(error)
    return outcomes


def test_deadlines_that_have_come_are_answered_in_uvloop_too() -> None:
    outcomes = uvloop.run(_submit_with_deadlines_that_have_come())
    assert [each.code for each in outcomes if isinstance(each, PenstockError)] == [
        ErrorCode.DEADLINE_EXCEEDED
    ] * 3


def test_a_version_without_a_replica_is_named_by_the_failure() -> None:
    with pytest.raises(PenstockError) as failed:
        _service_without_replicas().metadata("m", None)
    assert failed.value.code is ErrorCode.NO_READY_REPLICA
    assert failed.value.version == "1"
