"""The replica's queue: nothing lost, nothing run twice, nothing mixed up, nothing late."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker.batching import BatchLimits, BatchQueue, DispatchReason, Item
from worker.latency_model import LatencyModel

MAX_BATCH = 8
QUEUE_ROWS = 64


def item(
    number: int,
    *,
    bucket: str = "a",
    rows: int = 1,
    priority: int = 5,
    deadline: float = 100.0,
    enqueued: float = 0.0,
    suspect: bool = False,
) -> Item:
    return Item(("g", number), bucket, rows, priority, deadline, enqueued, number, suspect)


def queue(latency: LatencyModel | None = None, delay_s: float = 0.0) -> BatchQueue:
    limits = BatchLimits(MAX_BATCH, delay_s, QUEUE_ROWS)
    return BatchQueue(limits, latency or LatencyModel())


def released(batches: BatchQueue, now: float = 0.0) -> tuple[list[int], DispatchReason]:
    release = batches.release(now)
    assert release is not None
    return [entry.payload for entry in release.items], release.reason


class Queueing(RuleBasedStateMachine):
    """Offers, cancels, releases and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.latency = LatencyModel()
        self.queue = queue(self.latency)
        self.waiting: dict[int, Item] = {}
        self.count = 0

    @rule(
        bucket=st.sampled_from("ab"),
        rows=st.integers(1, MAX_BATCH),
        priority=st.integers(1, 9),
        budget=st.floats(0.001, 20),
        suspect=st.booleans(),
    )
    def offer(self, bucket: str, rows: int, priority: int, budget: float, suspect: bool) -> None:
        self.count += 1
        new = item(
            self.count,
            bucket=bucket,
            rows=rows,
            priority=priority,
            deadline=self.now + budget,
            enqueued=self.now,
            suspect=suspect,
        )
        accepted = self.queue.offer(new)
        room = self.queue.rows + (0 if accepted else rows) <= QUEUE_ROWS
        assert accepted == room or not self.waiting
        if accepted:
            self.waiting[self.count] = new

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.count + 1))
        gone = self.queue.cancel(("g", number))
        assert gone is self.waiting.pop(number, None)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expired = {entry.payload for entry in self.queue.expire(self.now)}
        assert expired == {n for n, e in self.waiting.items() if e.deadline <= self.now}
        for number in expired:
            del self.waiting[number]

    @rule(seconds=st.floats(0.0001, 8))
    def release(self, seconds: float) -> None:
        first = min(
            self.waiting.values(),
            key=lambda e: (e.priority, e.deadline, e.payload),
            default=None,
        )
        release = self.queue.release(self.now)
        if first is None:
            assert release is None
            return
        assert release is not None
        assert release.items[0] is first, "the first in order always runs"
        assert release.rows <= MAX_BATCH
        assert len({entry.bucket for entry in release.items}) == 1
        assert len(release.items) == 1 or not any(entry.suspect for entry in release.items)
        for entry in (*release.items, *release.infeasible):
            assert self.waiting.pop(entry.payload) is entry
            assert entry.deadline > self.now, "an expired item is never released"
        self.latency.observe(first.bucket, release.rows, seconds)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.rows == sum(entry.rows for entry in self.waiting.values())
        earliest = min((entry.deadline for entry in self.waiting.values()), default=None)
        assert self.queue.next_deadline() == earliest


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


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


def test_priority_goes_before_deadline() -> None:
    batches = BatchQueue(BatchLimits(1), LatencyModel())
    batches.offer(item(0, priority=9, deadline=1.0))
    batches.offer(item(1, priority=5, deadline=3.0))
    batches.offer(item(2, priority=5, deadline=2.0))
    assert [released(batches)[0] for _ in range(3)] == [[2], [1], [0]]


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
        batches.offer(item(number, enqueued=(number - 102) * gap_s))
        batches.cancel(("g", number))


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
        batches.offer(item(number, bucket=str(number % 3), deadline=1000.0 - number))
        if cancel:
            batches.cancel(("g", number))
    while (release := batches.release(0.0)) is not None:
        assert release.items
    assert len(batches) == 0
    assert batches.next_deadline() is None
    assert repr(batches) == "<BatchQueue 0 items, 0 rows, 0 lanes>"
