"""What a worker reads out of the control plane's documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.shared.contracts.deployment import Deployment, GatewayReport, Phase
from penstock.shared.contracts.routing import RoutingTable
from penstock.worker.agent.wanted import (
    Assignment,
    GatewayBook,
    Wanted,
    assignments_of,
    device_for,
    local_slots,
    threads_for,
)
from tests.unit.worker.agent_bench import WORKER, deployment, routing

LIFE = "w-1"


def gateway(name: str, endpoint: str) -> GatewayReport:
    return GatewayReport(gateway=name, incarnation="i", node="n", pid=1, endpoint=endpoint)


def endpoints(book: GatewayBook) -> list[str]:
    return [address.endpoint for address in book.addresses]


def assigned(model: str, revision: str, count: int) -> list[Assignment]:
    (one, *_) = assignments_of(WORKER, deployment([model], 1), RoutingTable())
    return [replace(one, key=f"{revision}/{n}", revision=revision) for n in range(count)]


def test_assignments_are_those_of_this_worker() -> None:
    desired = deployment(["a", "b"], 1, replicas=2)
    elsewhere = desired.placement[0].model_copy(update={"worker": "other"})
    unknown = desired.placement[1].model_copy(update={"revision": "gone"})
    desired = desired.model_copy(
        update={"placement": (elsewhere, unknown, *desired.placement[2:][::-1])}
    )
    found = assignments_of(WORKER, desired, RoutingTable())
    assert [one.key for one in found] == ["b/0", "b/1"]


def test_a_place_of_another_duty_asks_for_another_process() -> None:
    desired = deployment(["a"], 1)
    (place,) = desired.placement
    for_jobs = desired.model_copy(
        update={"placement": (place.model_copy(update={"duty": "jobs"}),)}
    )
    (before,) = assignments_of(WORKER, desired, RoutingTable())
    (after,) = assignments_of(WORKER, for_jobs, RoutingTable())
    assert (before.duty, after.duty) == ("both", "jobs")
    assert before.same_replica(replace(before, attempt=3))
    assert not before.same_replica(after)


@pytest.mark.parametrize(
    ("phase", "routes", "routed"),
    [
        (Phase.SERVING, [], True),
        (Phase.LOADING, [], False),
        (Phase.DRAINING, [], False),
        (Phase.LOADING, ["a"], True),
    ],
)
def test_what_counts_as_routed(phase: Phase, routes: list[str], routed: bool) -> None:
    desired = deployment(["a"], 1)
    revision = desired.revisions["a-r"].model_copy(update={"phase": phase, "failures": 3})
    desired = desired.model_copy(update={"revisions": {"a-r": revision}})
    (one,) = assignments_of(WORKER, desired, routing(routes, 1))
    assert (one.routed, one.attempt) == (routed, 3)


def test_a_surge_swap_does_not_halve_threads() -> None:
    steady = [*assigned("digits", "r1", 2), *assigned("other", "o1", 1)]
    swapping = [*steady, *assigned("digits", "r2", 2)]
    assert local_slots(steady) == local_slots(swapping) == 3
    assert threads_for(steady[0], 16, 3) == 5
    assert threads_for(steady[0], 2, 3) == 1
    assert threads_for(steady[0], 2, 0) == 2
    fixed = steady[0].settings.model_copy(update={"threads": 7})
    assert threads_for(replace(steady[0], settings=fixed), 2, 3) == 7


@pytest.mark.parametrize(
    ("device", "gpus", "taken", "expected"),
    [
        ("cpu", ["cuda:0"], [], "cpu"),
        ("cuda:1", ["cuda:0"], [], "cuda:1"),
        ("auto", [], [], "cpu"),
        ("auto", ["cuda:0", "cuda:1"], [], "cuda:0"),
        ("auto", ["cuda:0", "cuda:1"], ["cuda:0", "cpu"], "cuda:1"),
        ("auto", ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"], "cuda:0"),
    ],
)
def test_devices(device: str, gpus: Sequence[str], taken: list[str], expected: str) -> None:
    one = replace(assigned("a", "r", 1)[0], device=device)
    assert device_for(one, gpus, taken) == expected


def test_gateways_are_kept_for_a_while() -> None:
    book = GatewayBook(kept_s=30)
    assert book.update([gateway("a", "ipc://a"), gateway("b", "ipc://b")], 0)
    assert not book.update([gateway("b", "ipc://b")], 100)
    assert not book.update([gateway("b", "ipc://b")], 129)
    assert endpoints(book) == ["ipc://a", "ipc://b"]
    assert book.update([gateway("b", "ipc://b")], 130)
    assert endpoints(book) == ["ipc://b"]


def test_a_gateway_that_moved_or_came_back() -> None:
    book = GatewayBook(kept_s=30)
    book.update([gateway("a", "ipc://a")], 0)
    assert book.update([gateway("a", "ipc://new")], 1)
    book.update([], 2)
    book.update([gateway("a", "ipc://new")], 3)
    assert not book.update([], 35)
    assert endpoints(book) == ["ipc://new"]


def test_an_emptied_store_is_not_believed() -> None:
    wanted = Wanted(WORKER, LIFE)
    assert wanted.assignments() is None
    wanted.take_deployment(Deployment())
    assert wanted.assignments() == ()
    wanted.take_deployment(deployment(["a"], 5))
    wanted.take_deployment(Deployment())
    assert wanted.serial == 5
    assert len(wanted.assignments() or ()) == 1
    assert len(wanted.digests) == 1
    wanted.take_deployment(deployment([], 6))
    assert wanted.assignments() == ()


def test_what_was_decided_in_ignorance_of_this_worker_takes_nothing_from_it() -> None:
    """So it comes back from a cut of the network: it was thought gone, and was placed out."""
    wanted = Wanted(WORKER, LIFE)
    wanted.take_deployment(knowing([LIFE], ["a", "b"], 1))
    before = wanted.assignments()
    wanted.take_deployment(knowing([], ["a", "b"], 2, placed=False))
    assert wanted.assignments() == before
    wanted.take_deployment(knowing(["other-1"], ["b", "c"], 3))  # `a` is not wanted anywhere
    assert [one.model for one in wanted.assignments() or ()] == ["b", "c"]
    wanted.take_deployment(knowing([LIFE, "other-1"], ["b"], 4, placed=False))
    assert wanted.assignments() == ()


def test_a_new_life_runs_what_was_placed_on_the_one_before() -> None:
    wanted = Wanted(WORKER, "w-2")
    wanted.take_deployment(knowing([LIFE], ["a"], 1))
    assert [one.model for one in wanted.assignments() or ()] == ["a"]
    wanted.take_deployment(knowing([LIFE], ["a"], 2, placed=False))
    assert wanted.assignments() == ()  # it never was told to run it by somebody who knew of it


def knowing(
    workers: Sequence[str], models: Sequence[str], serial: int, *, placed: bool = True
) -> Deployment:
    """A deployment decided by somebody who knew of these workers' lives."""
    desired = deployment(models, serial).model_copy(update={"workers": tuple(workers)})
    return desired if placed else desired.model_copy(update={"placement": ()})


def test_only_newer_routes_count() -> None:
    wanted = Wanted(WORKER, LIFE)
    assert [one.model for one in wanted.take_routing(routing(["a", "b"], 5))] == ["a", "b"]
    assert wanted.take_routing(routing(["a"], 5)) == ()
    assert wanted.route("b") is None
    assert wanted.take_routing(routing(["a"], 4)) == ()
    assert wanted.take_routing(RoutingTable()) == ()
    assert [one.generation for one in wanted.take_routing(routing(["a"], 6))] == [6]
    route = wanted.route("a")
    assert route is not None
    assert route.generation == 6
