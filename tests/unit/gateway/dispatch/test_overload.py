"""Overload, what comes after it, and load that is none: played with a fake clock."""

from __future__ import annotations

import pytest

from tests.unit.gateway.overload import Model, World, p99

SLEEPS = Model(0.02, 0.0, 32)
"""Sleeps 20 ms, whatever the batch."""

MODELS = {
    "sleeps, alone": Model(0.02, 0.0, 1),
    "sleeps, in batches of 8": Model(0.02, 0.0, 8),
    "half of a batch is its start": Model(0.02, 0.0025, 8),
    "batches win nothing": Model(0.0, 0.005, 8, overhead_s=0.001),
    # A batch may take as long as its earliest deadline allows, and then what came after it is late.
    "batches win nothing, and are large": Model(0.0, 0.01, 32),
    "slow": Model(0.08, 0.01, 4),
}
HERE = {"one gateway": (1, 1), "three gateways": (2, 3)}
DURING_S = 6.0


def overloaded(model: Model, here: str, share: float) -> World:
    replicas, gateways = HERE[here]
    world = World(1, model, replicas, gateways)
    world.load(0.0, DURING_S, share)
    world.load(DURING_S, DURING_S + 4.0, 0.5)
    world.run_until(DURING_S + 5.0)
    return world


@pytest.mark.parametrize("here", HERE)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [1.2, 2.0])
def test_under_overload_capacity_is_used_for_answers_in_time(
    name: str, here: str, share: float
) -> None:
    world = overloaded(MODELS[name], here, share)
    during = world.between(1.0, DURING_S)
    assert world.goodput(0.0, DURING_S) >= 0.9
    late_share = 0.1 if MODELS[name].batch_s(MODELS[name].max_batch_size) > 0.25 else 0.01
    assert during.late <= late_share * (during.good + during.late)
    assert during.sheds > 0
    after = world.between(DURING_S + 2.0, DURING_S + 4.0)
    normal = World(2, MODELS[name], *HERE[here])
    normal.load(0.0, 4.0, 0.5)
    normal.run_until(5.0)
    assert after.late == 0
    assert p99(after.latencies) <= 2 * p99(normal.between(1.0, 4.0).latencies)


@pytest.mark.parametrize("here", HERE)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "slow"])
def test_at_80_percent_of_capacity_nothing_is_shed(name: str, here: str) -> None:
    world = World(3, MODELS[name], *HERE[here])
    world.load(0.0, DURING_S, 0.8)
    world.run_until(DURING_S + 1.0)
    during = world.between(0.0, DURING_S)
    assert (during.sheds, during.late) == (0, 0)


def test_a_burst_after_a_quiet_time_is_no_overload() -> None:
    world = World(4, SLEEPS, 1, 1)
    world.load(0.0, 3.0, 0.02)
    world.load(3.0, 5.0, 0.8)
    world.run_until(6.0)
    assert world.between(0.0, 5.0).sheds == 0


def test_a_model_that_becomes_ten_times_slower_is_followed_and_so_is_its_recovery() -> None:
    world = World(5, Model(0.01, 0.0, 4), 2, 2)
    world.load(0.0, 9.0, 0.6)
    world.run_until(3.0)
    world.model = Model(0.1, 0.0, 4)
    world.capacity = world.model.capacity(2)
    world.run_until(6.0)
    assert world.goodput(4.0, 6.0) >= 0.85
    world.model = Model(0.01, 0.0, 4)
    world.run_until(9.0)
    after = world.between(7.0, 8.9)
    assert (after.sheds, after.late) == (0, 0)


def test_lower_classes_are_shed_first_and_none_starves() -> None:
    world = World(6, Model(0.02, 0.0, 8), 2, 2)
    for priority, share in ((1, 0.3), (5, 0.6), (9, 0.6)):
        world.load(0.0, DURING_S, share, priority=priority)
    world.run_until(DURING_S + 1.0)
    first, default, last = (world.between(1.0, DURING_S, priority) for priority in (1, 5, 9))
    assert first.sheds + first.late == 0
    assert default.sheds <= 0.02 * default.good
    assert last.sheds > last.good > 0
    crowded = World(7, Model(0.02, 0.0, 8), 2, 2)
    crowded.load(0.0, DURING_S, 1.5, priority=5)
    crowded.load(0.0, DURING_S, 0.2, priority=9)
    crowded.run_until(DURING_S + 1.0)
    assert crowded.between(2.0, DURING_S, priority=9).good >= 4


def test_calls_that_have_time_do_not_shut_out_calls_that_have_none() -> None:
    world = World(8, Model(0.02, 0.0, 8), 2, 1)
    world.load(0.0, 2.0, 1.5, timeout_s=30.0)
    world.load(0.5, 2.0, 0.3, timeout_s=0.4)
    world.run_until(10.0)
    assert not world.between(0.0, 10.0).sheds + world.between(0.0, 10.0).late
