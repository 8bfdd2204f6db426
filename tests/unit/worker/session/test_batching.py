"""The replica's queue: nothing lost, nothing run twice, nothing mixed up, nothing late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.worker.session.batching import (
    START_MARGIN_S,
    BatchLimits,
    BatchQueue,
    DispatchReason,
    Item,
    Release,
)
from penstock.worker.session.latency_model import LatencyModel
from tests.support.examples import examples

MAX_BATCH = 8
QUEUE_ROWS = 64


def item(
    number: int,
    *,
    bucket: str = "a",
    rows: int = 1,
    priority: int = 5,
    deadline: float = 100.0,
    start_by: float | None = None,
    enqueued: float = 0.0,
    suspect: bool = False,
    alone: bool = False,
) -> Item:
    begin = deadline if start_by is None else min(start_by, deadline)
    key = ("g", number)
    return Item(key, bucket, rows, priority, deadline, begin, enqueued, number, suspect, alone)


def queue(latency: LatencyModel | None = None, delay_s: float = 0.0) -> BatchQueue:
    limits = BatchLimits(MAX_BATCH, delay_s, QUEUE_ROWS)
    return BatchQueue(limits, latency or LatencyModel())


def released(batches: BatchQueue, now: float = 0.0) -> tuple[list[int], DispatchReason]:
    release = batches.release(now)
    assert release is not None
    return [entry.payload for entry in release.items], release.reason


def rank(some: Item) -> tuple[int, float, int]:
    return (some.priority, some.start_by, some.payload)


def planned(
    waiting: list[Item], latency: LatencyModel, now: float, max_batch: int
) -> Release | None:
    """What a queue that looks at every item is to release: the rules as plainly as can be."""
    if not waiting:
        return None
    order = sorted(waiting, key=rank)
    head = order[0]
    mergeable = [e for e in order if e.bucket == head.bucket and not (e.suspect or e.alone)]
    items: list[Item] = []
    infeasible: list[Item] = []
    rows, earliest = 0, float("inf")
    reason = DispatchReason.IDLE
    for entry in [head] if head.suspect or head.alone or max_batch == 1 else mergeable:
        if items and rows + entry.rows > max_batch:
            reason = DispatchReason.FULL
            break
        if items and now + latency.lower(entry.bucket, entry.rows) > entry.deadline:
            infeasible.append(entry)
            continue
        in_time = now + latency.upper(entry.bucket, entry.rows) <= entry.deadline
        limit = min(earliest, entry.deadline) if in_time else earliest
        if items and now + latency.upper(entry.bucket, rows + entry.rows) > limit:
            reason = DispatchReason.DEADLINE
            break
        items.append(entry)
        rows += entry.rows
        earliest = limit
    if rows >= max_batch:
        reason = DispatchReason.FULL
    return Release(tuple(items), reason, tuple(infeasible))


class Queueing(RuleBasedStateMachine):
    """Offers, cancels, releases and time in any order."""

    max_batch = MAX_BATCH

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.latency = LatencyModel()
        limits = BatchLimits(self.max_batch, 0.0, QUEUE_ROWS)
        self.queue = BatchQueue(limits, self.latency)
        self.waiting: dict[int, Item] = {}
        self.offered: list[Item] = []

    @rule(
        bucket=st.sampled_from("ab"),
        rows=st.one_of(st.just(1), st.integers(1, MAX_BATCH + 1)),
        priority=st.integers(1, 9),
        budget=st.floats(0.001, 20),
        queue_budget=st.one_of(st.none(), st.floats(0.001, 20)),
        suspect=st.booleans(),
        alone=st.sampled_from([False, False, True]),
    )
    def offer(
        self,
        bucket: str,
        rows: int,
        priority: int,
        budget: float,
        queue_budget: float | None,
        suspect: bool,
        alone: bool,
    ) -> None:
        number = len(self.offered)
        new = item(
            number,
            bucket=bucket,
            rows=rows,
            priority=priority,
            deadline=self.now + budget,
            start_by=None if queue_budget is None else self.now + queue_budget,
            enqueued=self.now,
            suspect=suspect,
            alone=alone,
        )
        accepted = self.queue.offer(new)
        room = self.queue.rows + (0 if accepted else rows) <= QUEUE_ROWS
        assert accepted == room or not self.waiting
        self.offered.append(new)
        if accepted:
            self.waiting[number] = new

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        some = data.draw(st.sampled_from(self.offered))
        was_waiting = self.waiting.pop(some.payload, None) is not None
        assert self.queue.cancel(some) == was_waiting

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expired = [entry.payload for entry in self.queue.expire(self.now)]
        late = sorted((e.start_by, n) for n, e in self.waiting.items() if e.start_by <= self.now)
        assert expired == [number for _, number in late]
        for number in expired:
            del self.waiting[number]

    @rule(seconds=st.floats(0.0001, 8))
    def release(self, seconds: float) -> None:
        waiting = list(self.waiting.values())
        expected = planned(waiting, self.latency, self.now, self.max_batch)
        first = expected.items[0] if expected else None
        release = self.queue.release(self.now)
        assert release == expected
        if first is None:
            assert release is None
            return
        assert release is not None
        assert first is min(self.waiting.values(), key=rank), "the first in order always runs"
        assert release.rows <= self.max_batch or len(release.items) == 1
        assert len({entry.bucket for entry in release.items}) == 1
        apart = [entry for entry in release.items if entry.suspect or entry.alone]
        assert len(release.items) == 1 or not apart
        for entry in (*release.items, *release.infeasible):
            assert self.waiting.pop(entry.payload) is entry
            assert entry.start_by > self.now, "an expired item is never released"
        self.latency.observe(first.bucket, release.rows, seconds)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.rows == sum(entry.rows for entry in self.waiting.values())
        earliest = min((entry.start_by for entry in self.waiting.values()), default=None)
        assert self.queue.next_deadline() == earliest


class QueueingOneByOne(Queueing):
    max_batch = 1


TestQueueing = Queueing.TestCase
TestQueueing.settings = examples(150, stateful_step_count=40)
TestQueueingOneByOne = QueueingOneByOne.TestCase
TestQueueingOneByOne.settings = examples(50)


def test_an_idle_runtime_takes_what_there_is() -> None:
    batches = queue()
    for number in range(3):
        batches.offer(item(number))
    assert released(batches) == ([0, 1, 2], DispatchReason.IDLE)
    assert batches.release(0.0) is None


def test_a_batch_is_full_at_its_limit() -> None:
    batches = queue()
    for number in range(5):
        batches.offer(item(number, rows=3))
    assert released(batches) == ([0, 1], DispatchReason.FULL)
    assert released(batches) == ([2, 3], DispatchReason.FULL)
    assert released(batches) == ([4], DispatchReason.IDLE)


def test_a_batch_stops_growing_where_a_deadline_would_be_missed() -> None:
    latency = LatencyModel()
    latency.observe("a", 1, 1.0)
    latency.observe("a", 2, 2.0)
    latency.observe("a", 4, 4.0)
    batches = queue(latency)
    for number in range(4):
        batches.offer(item(number, deadline=2.5))
    assert released(batches) == ([0, 1], DispatchReason.DEADLINE)


def test_the_first_in_order_runs_whatever_its_estimate_says() -> None:
    latency = LatencyModel()
    latency.observe("a", 1, 1000.0)
    batches = queue(latency)
    batches.offer(item(0, deadline=1.0))
    assert released(batches)[0] == [0]


def test_what_cannot_make_it_any_more_is_given_up_and_does_not_shrink_the_batch() -> None:
    latency = LatencyModel()
    latency.observe("a", 1, 1.0)
    latency.observe("a", 8, 1.0)
    batches = queue(latency)
    batches.offer(item(0, deadline=0.5))
    batches.offer(item(1, deadline=0.6))
    for number in range(2, 6):
        batches.offer(item(number, deadline=50.0))
    release = batches.release(0.0)
    assert release is not None
    assert [entry.payload for entry in release.items] == [0, 2, 3, 4, 5]
    assert [entry.payload for entry in release.infeasible] == [1]


def test_a_batch_begins_by_the_time_in_queue_and_ends_by_the_deadline() -> None:
    """A batch that ends long after its items had to begin is as good as any."""
    latency = LatencyModel()
    latency.observe("a", 8, 5.0)
    batches = queue(latency)
    for number in range(3):
        batches.offer(item(number, start_by=1.0, deadline=50.0))
    assert batches.next_deadline() == 1.0
    assert batches.expire(0.9) == []
    assert released(batches, 0.9) == ([0, 1, 2], DispatchReason.IDLE)


def test_what_must_begin_first_goes_first() -> None:
    batches = BatchQueue(BatchLimits(1), LatencyModel())
    batches.offer(item(0, deadline=2.0))
    batches.offer(item(1, deadline=30.0, start_by=1.0))
    assert [released(batches)[0] for _ in range(2)] == [[1], [0]]


def test_priority_goes_before_deadline() -> None:
    batches = BatchQueue(BatchLimits(1), LatencyModel())
    batches.offer(item(0, priority=9, deadline=1.0))
    batches.offer(item(1, priority=5, deadline=3.0))
    batches.offer(item(2, priority=5, deadline=2.0))
    assert [released(batches)[0] for _ in range(3)] == [[2], [1], [0]]


@given(st.lists(st.tuples(st.integers(4, 6), st.integers(0, 50)), max_size=300))
def test_requests_that_never_merge_run_in_order(wanted: list[tuple[int, int]]) -> None:
    """As many lanes as items: what parameters do that are different each time."""
    batches = BatchQueue(BatchLimits(8, 0.0, 10_000), LatencyModel())
    for number, (priority, deadline) in enumerate(wanted):
        new = item(number, bucket=str(number), priority=priority, deadline=100.0 + deadline)
        batches.offer(new)
    order = sorted(range(len(wanted)), key=lambda number: (wanted[number], number))
    assert [released(batches)[0] for _ in wanted] == [[number] for number in order]
    assert len(batches) == 0


def test_models_without_a_batch_dimension_run_one_by_one() -> None:
    batches = BatchQueue(BatchLimits(0), LatencyModel())
    batches.offer(item(0))
    batches.offer(item(1))
    assert released(batches)[0] == [0]


def test_out_of_memory_halves_the_limit() -> None:
    batches = queue()
    assert batches.halve_batch(failed_rows=8) == 4
    assert batches.halve_batch(failed_rows=1) == 1


def _arrivals(batches: BatchQueue, gap_s: float) -> None:
    for number in range(100, 103):
        passing = item(number, enqueued=(number - 102) * gap_s)
        batches.offer(passing)
        batches.cancel(passing)


def _cheaper_in_batches() -> LatencyModel:
    latency = LatencyModel()
    latency.observe("a", 1, 0.010)
    latency.observe("a", 8, 0.011)
    return latency


def test_a_queue_delay_is_waited_when_more_is_likely_to_come() -> None:
    batches = queue(_cheaper_in_batches(), delay_s=0.005)
    _arrivals(batches, gap_s=0.001)
    batches.offer(item(0, enqueued=0.0))
    assert batches.release(0.0) is None
    assert batches.next_deadline() == pytest.approx(0.005)
    batches.offer(item(1, enqueued=0.001))
    assert released(batches, 0.005) == ([0, 1], DispatchReason.WAITED)


def test_a_queue_delay_ends_before_an_item_must_begin() -> None:
    batches = queue(_cheaper_in_batches(), delay_s=0.050)
    _arrivals(batches, gap_s=0.001)
    batches.offer(item(0, enqueued=0.0, start_by=0.010))
    assert batches.release(0.0) is None
    due = batches.next_deadline()
    assert due == pytest.approx(0.010 - START_MARGIN_S)
    assert due is not None
    assert batches.expire(due) == []
    assert released(batches, due)[0] == [0]


def test_a_queue_delay_is_not_waited_when_nothing_is_likely_to_come() -> None:
    batches = queue(_cheaper_in_batches(), delay_s=0.005)
    _arrivals(batches, gap_s=1.0)
    batches.offer(item(0, enqueued=0.0))
    assert released(batches) == ([0], DispatchReason.IDLE)


def test_a_queue_delay_is_not_waited_when_rows_do_not_get_cheaper() -> None:
    latency = LatencyModel()
    for rows in (1, 2, 4, 8):
        latency.observe("a", rows, 0.010 * rows)
    batches = queue(latency, delay_s=0.005)
    _arrivals(batches, gap_s=0.001)
    batches.offer(item(0, enqueued=0.0))
    assert released(batches) == ([0], DispatchReason.IDLE)


@given(st.lists(st.booleans(), max_size=400))
def test_cancelling_leaves_nothing_behind(cancels: list[bool]) -> None:
    batches = BatchQueue(BatchLimits(8, 0.0, 10_000), LatencyModel())
    for number, cancel in enumerate(cancels):
        new = item(number, bucket=str(number % 3), deadline=1000.0 - number)
        batches.offer(new)
        if cancel:
            batches.cancel(new)
    while (release := batches.release(0.0)) is not None:
        assert release.items
    assert len(batches) == 0
    assert batches.next_deadline() is None
    assert repr(batches) == "<BatchQueue 0 items, 0 rows, 0 lanes>"
