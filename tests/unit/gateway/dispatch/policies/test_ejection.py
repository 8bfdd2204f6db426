"""Outliers are left out and probed back, and never more than half of the replicas."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.gateway.dispatch.policies.ejection import Ejection, EjectionSettings, Standing, State
from tests.support.examples import examples

SETTINGS = EjectionSettings()


def join(ejection: Ejection) -> Standing:
    standing = Standing()
    ejection.joined(standing)
    return standing


def world(replicas: int) -> tuple[Ejection, list[Standing]]:
    ejection = Ejection(SETTINGS)
    return ejection, [join(ejection) for _ in range(replicas)]


def fail(ejection: Ejection, standing: Standing, now: float, times: int = 5) -> None:
    for _ in range(times):
        ejection.failed(standing, now)


class Ejecting(RuleBasedStateMachine):
    """Replicas that join, leave, answer and fail in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ejection = Ejection(SETTINGS)
        self.standings: list[Standing] = []
        self.held: set[int] = set()
        self.now = 0.0

    @rule()
    def join(self) -> None:
        if len(self.standings) < 8:
            self.standings.append(join(self.ejection))

    @precondition(lambda self: self.standings)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        standing = data.draw(st.sampled_from(self.standings))
        self.standings.remove(standing)
        self.held.discard(id(standing))
        self.ejection.left(standing)

    @precondition(lambda self: self.standings)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["answered", "slow", "failed", "failed", "cancelled"]),
        times=st.integers(1, 30),
    )
    def call(self, data: st.DataObject, outcome: str, times: int) -> None:
        standing = data.draw(st.sampled_from(self.standings))
        for _ in range(times):
            if not standing.takes_calls:
                return
            probe = standing.state is not State.IN
            if probe:
                self.ejection.sent(standing)
                assert not standing.takes_calls
            if outcome == "failed":
                self.ejection.failed(standing, self.now)
            elif outcome != "cancelled":
                standing.answered(0.01 if outcome == "answered" else 0.5)
            if probe:
                self.ejection.ended(standing)

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.ejection.judge(self.now)
        for standing in self.standings:
            assert standing.state is not State.OUT or standing.until > self.now or seconds == 0

    @invariant()
    def at_most_half_are_out(self) -> None:
        out = [each for each in self.standings if each.state is not State.IN]
        assert len(out) == self.ejection.ejected <= len(self.standings) // 2
        assert self.ejection.all_in == (not out)

    @invariant()
    def none_is_out_for_longer_than_the_longest_while(self) -> None:
        for standing in self.standings:
            if standing.state is State.OUT:
                assert standing.until <= self.now + SETTINGS.out_s_max


TestEjecting = Ejecting.TestCase
TestEjecting.settings = examples(100, stateful_step_count=40)


def test_a_replica_that_fails_in_a_row_is_out_for_a_while_and_probed_back() -> None:
    ejection, (bad, *_) = world(3)
    fail(ejection, bad, now=10.0, times=4)
    assert bad.takes_calls
    fail(ejection, bad, now=10.0, times=1)
    assert not bad.takes_calls
    ejection.judge(10.9)
    assert not bad.takes_calls
    ejection.judge(11.0)
    assert bad.state is State.PROBED
    for _ in range(SETTINGS.probes_min):
        assert bad.takes_calls
        ejection.sent(bad)
        assert not bad.takes_calls
        bad.answered(0.01)
        ejection.ended(bad)
        ejection.judge(11.1)
    assert bad.state is State.IN
    assert ejection.all_in


def test_an_answer_in_between_makes_the_row_end() -> None:
    ejection, (replica, *_) = world(2)
    for _ in range(10):
        fail(ejection, replica, now=0.0, times=4)
        replica.answered(0.01)
    assert replica.takes_calls


def test_who_fails_its_probe_is_out_for_twice_as_long_and_is_forgiven_in_time() -> None:
    ejection, (bad, *_) = world(2)
    now, whiles = 0.0, []
    fail(ejection, bad, now)
    for _ in range(8):
        whiles.append(bad.until - now)
        now = bad.until
        ejection.judge(now)
        ejection.sent(bad)
        fail(ejection, bad, now, times=1)
        ejection.ended(bad)
    assert whiles == [1, 2, 4, 8, 16, 32, 60, 60]
    now = bad.until
    ejection.judge(now)
    for _ in range(SETTINGS.probes_min):
        bad.answered(0.01)
    ejection.judge(now)
    ejection.judge(now + SETTINGS.forgive_s)
    fail(ejection, bad, now + 100)
    assert bad.until == now + 100 + SETTINGS.out_s


def test_where_all_fail_nobody_is_an_outlier() -> None:
    ejection, standings = world(4)
    for _ in range(5):
        for standing in standings:
            ejection.failed(standing, 0.0)
    assert ejection.ejected <= 2
    alone, (single,) = world(1)
    fail(alone, single, 0.0, times=50)
    assert single.takes_calls


def test_a_replica_that_is_slow_beyond_its_peers_is_out() -> None:
    ejection, (slow, *others) = world(3)
    for _ in range(SETTINGS.samples_min):
        slow.answered(0.2)
        for other in others:
            other.answered(0.02)
    ejection.judge(0.0)
    assert slow.state is State.OUT
    assert all(other.takes_calls for other in others)
    ejection.judge(1.0)
    for _ in range(SETTINGS.probes_min):
        slow.answered(0.2)
    ejection.judge(1.0)
    assert slow.state is State.OUT
    assert slow.until == 3.0


def test_replicas_that_differ_a_little_or_are_all_slow_stay() -> None:
    ejection, standings = world(3)
    for _ in range(50):
        for standing, seconds in zip(standings, (0.001, 0.002, 0.009), strict=True):
            standing.answered(seconds)
    ejection.judge(0.0)
    assert ejection.all_in
    for _ in range(200):
        for standing in standings:
            standing.answered(2.0)
    ejection.judge(1.0)
    assert ejection.all_in


def test_when_peers_leave_fewer_may_be_out() -> None:
    ejection, (bad, good) = world(2)
    fail(ejection, bad, 0.0)
    assert not bad.takes_calls
    ejection.left(good)
    assert bad.takes_calls
    assert ejection.all_in
