"""When jobs are leased: never more than can begin soon, and without polling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.shared.wire.messages import Final, Nack, NackReason
from penstock.worker.job_line.messages import Hinted, Leased, PortLost, Pull
from penstock.worker.jobs.desk import (
    PACED_JOBS,
    PREFETCH_S,
    SUSPECT_RETRY_S,
    Busyness,
    JobDesk,
)
from penstock.worker.jobs.pace import CALLS_PAST_S, PACE_S, PACE_S_MAX
from tests.support.examples import examples

HELD_MAX = 8
IDLE = Busyness(idle=True, crowded=False, slice_jobs=4, slice_s=0.001)
BUSY = Busyness(idle=False, crowded=False, slice_jobs=4, slice_s=0.001)
SLOW = Busyness(idle=False, crowded=False, slice_jobs=1, slice_s=2 * PREFETCH_S)
CROWDED = Busyness(idle=False, crowded=True, slice_jobs=4, slice_s=0.001)


def pull(desk: JobDesk, busy: Busyness, now: float, waited_s: float = 0.0) -> Pull | None:
    return desk.pull(busy, now, lambda: waited_s)


def leased(*numbers: int, more: bool = False, suspects: bool = False) -> Leased:
    return Leased(numbers, (), more, suspects)


def end(desk: JobDesk, *numbers: int, now: float = 0.0) -> None:
    desk.ended([Final(number) for number in numbers], now)


def test_a_replica_that_begins_looks_once_and_then_waits_for_a_hint() -> None:
    desk = JobDesk(HELD_MAX)
    assert pull(desk, IDLE, 0.0) == Pull(4, True)
    assert pull(desk, IDLE, 0.0) is None
    desk.heard(leased(), 0.0)
    assert (desk.wants(1e6), desk.next_deadline(0.0)) == (False, None)
    desk.heard(Hinted(), 0.0)
    assert pull(desk, IDLE, 0.0) == Pull(4, True)


def test_a_hint_that_comes_while_the_store_is_asked_counts_afterwards() -> None:
    desk = JobDesk(HELD_MAX)
    assert pull(desk, IDLE, 0.0) is not None
    desk.heard(Hinted(), 0.0)
    desk.heard(leased(), 0.0)
    assert pull(desk, IDLE, 0.0) is not None


def test_what_is_quick_is_leased_ahead_by_halves_and_what_is_slow_is_not() -> None:
    desk = JobDesk(HELD_MAX)
    pull(desk, IDLE, 0.0)
    desk.heard(leased(1, 2, 3, 4, more=True), 0.0)
    assert pull(desk, SLOW, 0.0) is None
    assert pull(desk, BUSY, 0.0) == Pull(4, False)
    desk.heard(leased(5, 6, 7, 8, more=True), 0.0)
    end(desk, 1, 2, 3)
    assert pull(desk, BUSY, 0.0) is None
    end(desk, 4)
    assert pull(desk, BUSY, 0.0) == Pull(4, False)


def test_nothing_is_leased_while_calls_gather() -> None:
    desk = JobDesk(HELD_MAX)
    assert pull(desk, CROWDED, 0.0) is None
    assert pull(desk, IDLE, 0.0) is not None


def test_while_calls_come_few_are_leased_at_a_time_and_at_a_pace() -> None:
    desk = JobDesk(64)
    many = replace(IDLE, slice_jobs=32)
    assert pull(desk, many, 0.0) == Pull(32, True)
    desk.heard(leased(more=True), 0.0)
    assert pull(desk, replace(many, calls=1), 1.0) == Pull(PACED_JOBS, True)
    desk.heard(leased(*range(PACED_JOBS), more=True), 1.0)
    end(desk, *range(PACED_JOBS))
    soonest = 1.0 + PACED_JOBS * PACE_S
    assert pull(desk, replace(many, calls=1), 1.001) is None
    assert desk.next_deadline(1.001) == soonest
    assert pull(desk, replace(many, calls=2), soonest) == Pull(PACED_JOBS, True)
    desk.heard(leased(more=True), soonest)
    assert pull(desk, replace(many, calls=2), soonest + CALLS_PAST_S) == Pull(32, True)


def test_where_processors_are_full_jobs_are_leased_more_slowly() -> None:
    desk = JobDesk(64)
    many, now = replace(IDLE, slice_jobs=32), 1.0
    for calls in range(1, 10):
        assert pull(desk, replace(many, calls=calls), now, waited_s=now / 2) == Pull(4, True)
        desk.heard(leased(more=True), now)
        soonest = desk.next_deadline(now)
        assert soonest is not None
        last_s, now = soonest - now, soonest
    assert last_s == pytest.approx(PACED_JOBS * PACE_S_MAX)


def test_where_suspects_wait_held_jobs_run_out_first() -> None:
    desk = JobDesk(HELD_MAX)
    pull(desk, BUSY, 0.0)
    desk.heard(leased(1, 2, suspects=True), 0.0)
    end(desk, 1)
    assert pull(desk, BUSY, 0.0) is None
    end(desk, 2)
    assert pull(desk, IDLE, 0.0) == Pull(4, True)


def test_a_suspect_that_calls_keep_off_is_looked_for_a_little_later() -> None:
    desk = JobDesk(HELD_MAX)
    pull(desk, IDLE, 0.0)
    desk.heard(leased(1), 0.0)
    desk.ended([Nack(1, NackReason.SUSPECT_BUSY)], 1.0)
    assert (desk.held, pull(desk, IDLE, 1.0)) == (frozenset(), None)
    assert desk.next_deadline(1.0) == 1.0 + SUSPECT_RETRY_S
    desk.heard(Hinted(), 1.0)  # its own return to the queue
    assert pull(desk, IDLE, 1.0) is None
    assert pull(desk, BUSY, 1.0 + SUSPECT_RETRY_S) == Pull(4, False)
    desk.heard(leased(suspects=True), 2.0)
    assert pull(desk, IDLE, 2.0) is None
    assert pull(desk, IDLE, 2.0 + SUSPECT_RETRY_S) == Pull(4, True)


class Leasing(RuleBasedStateMachine):
    """A store that answers in any way, and jobs that end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = JobDesk(HELD_MAX)
        self.now = 0.0
        self.asked: Pull | None = None
        self.held: list[int] = []
        self.last = 0

    @precondition(lambda self: self.asked is None)
    @rule(idle=st.booleans(), crowded=st.booleans(), jobs=st.integers(1, 4), slow=st.booleans())
    def look(self, idle: bool, crowded: bool, jobs: int, slow: bool) -> None:
        seconds = 1.0 if slow else 0.001
        self.asked = pull(self.desk, Busyness(idle, crowded, jobs, seconds), self.now)
        if self.asked is not None:
            assert 0 < self.asked.most + len(self.held) <= HELD_MAX
            assert not crowded
            assert not (self.asked.idle and (self.held or not idle))

    @precondition(lambda self: self.asked is not None)
    @rule(share=st.floats(0, 1), suspects=st.booleans())
    def answer(self, share: float, suspects: bool) -> None:
        assert self.asked is not None
        count = round(share * self.asked.most)
        numbers: Sequence[int] = range(self.last + 1, self.last + 1 + count)
        self.last += count
        self.held += numbers
        more = count == self.asked.most
        self.asked = None
        self.desk.heard(Leased(numbers, (), more, suspects), self.now)

    @rule()
    def hint(self) -> None:
        self.desk.heard(Hinted(), self.now)
        assert self.desk.wants(self.now + SUSPECT_RETRY_S) or self.asked is not None

    @precondition(lambda self: self.held)
    @rule(data=st.data(), busy=st.booleans())
    def job_ends(self, data: st.DataObject, busy: bool) -> None:
        number = data.draw(st.sampled_from(self.held))
        self.held.remove(number)
        answer = Nack(number, NackReason.SUSPECT_BUSY) if busy else Final(number)
        self.desk.ended([answer], self.now)

    @rule()
    def port_dies(self) -> None:
        self.asked = None
        self.desk.heard(PortLost(), self.now)
        for number in self.held:
            self.desk.left(number)
        self.held.clear()
        assert self.desk.wants(self.now + SUSPECT_RETRY_S)

    @rule(seconds=st.floats(0, 1))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_knows_what_is_held(self) -> None:
        assert self.desk.held == set(self.held)
        deadline = self.desk.next_deadline(self.now)
        assert deadline is None or deadline > self.now


TestLeasing = Leasing.TestCase
TestLeasing.settings = examples(100, stateful_step_count=40)
