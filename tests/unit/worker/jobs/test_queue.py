"""Jobs beside calls: calls first, slices kept, nothing lost, nothing mixed up."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.shared.wire.messages import Request
from penstock.worker.job_line.messages import Job
from penstock.worker.jobs.queue import (
    SLICE_CALLS,
    SLICE_S_MIN,
    JobItem,
    WaitingJobs,
    slice_s,
)
from penstock.worker.session.batching import BatchLimits, BatchQueue, Item
from penstock.worker.session.latency_model import TYPICAL_AFTER, LatencyModel
from tests.support.examples import examples
from tests.unit.worker.session.test_batching import MAX_BATCH, item, planned


def job(
    number: int,
    *,
    bucket: str = "a",
    rows: int = 1,
    priority: int = 5,
    timeout_s: float | None = None,
    suspect: bool = False,
    alone: bool = False,
) -> JobItem:
    request = Request(number, 0, (), priority, suspect)
    return JobItem(Job(number, request, timeout_s), bucket, rows, 0.0, alone=alone)


def known(*durations: tuple[int, float], bucket: str = "a") -> LatencyModel:
    """A model whose batches of so many rows took so long, often enough to be sure."""
    latency = LatencyModel()
    for rows, seconds in durations:
        for _ in range(TYPICAL_AFTER):
            latency.observe(bucket, rows, seconds)
    return latency


def waiting(latency: LatencyModel, set_s: float | None = None, merges: bool = True) -> WaitingJobs:
    return WaitingJobs(latency, set_s, rows_max=MAX_BATCH, merges=merges)


def planned_jobs(
    jobs: list[JobItem], latency: LatencyModel, first: Item, rows: int, rows_max: int, set_s: float
) -> list[JobItem]:
    """Which jobs join a batch that `first` is in, with so many rows: the rules in plain words."""
    taken = []
    limits = first.timeout_s if isinstance(first, JobItem) else None
    for each in sorted(jobs, key=lambda each: (each.priority, each.key)):
        if each is first or each.suspect or each.alone:
            continue
        if (each.bucket, each.timeout_s) != (first.bucket, limits):
            continue
        rows += each.rows
        takes_s = latency.of(first.bucket).middle(rows)
        if rows > rows_max or takes_s == 0 or takes_s > set_s:
            break
        taken.append(each)
    return taken


class CallsAndJobs(RuleBasedStateMachine):
    """A queue of calls and one of jobs, released from as a session does it."""

    slice_set_s = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.latency = LatencyModel()
        self.calls = BatchQueue(BatchLimits(MAX_BATCH, 0.0, 1000), self.latency)
        self.jobs = waiting(self.latency, self.slice_set_s)
        self.waiting_calls: dict[int, Item] = {}
        self.waiting_jobs: dict[int, JobItem] = {}
        self.offered: list[JobItem] = []
        self.count = 0

    @rule(bucket=st.sampled_from("ab"), rows=st.integers(1, 3), budget=st.floats(0.1, 20))
    def offer_call(self, bucket: str, rows: int, budget: float) -> None:
        self.count += 1
        new = item(
            self.count, bucket=bucket, rows=rows, deadline=self.now + budget, enqueued=self.now
        )
        assert self.calls.offer(new)
        self.waiting_calls[self.count] = new

    @rule(
        bucket=st.sampled_from("ab"),
        rows=st.one_of(st.just(1), st.integers(1, MAX_BATCH + 1)),
        priority=st.integers(1, 9),
        timeout_s=st.sampled_from([None, None, 5.0]),
        suspect=st.sampled_from([False, False, False, True]),
        alone=st.sampled_from([False, False, False, True]),
    )
    def offer_job(
        self,
        bucket: str,
        rows: int,
        priority: int,
        timeout_s: float | None,
        suspect: bool,
        alone: bool,
    ) -> None:
        self.count += 1
        new = job(
            self.count,
            bucket=bucket,
            rows=rows,
            priority=priority,
            timeout_s=timeout_s,
            suspect=suspect,
            alone=alone,
        )
        self.jobs.offer(new)
        self.waiting_jobs[self.count] = new
        self.offered.append(new)

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def cancel_job(self, data: st.DataObject) -> None:
        some = data.draw(st.sampled_from(self.offered))
        assert self.jobs.cancel(some) == (self.waiting_jobs.pop(some.key[1], None) is not None)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for late in self.calls.expire(self.now):
            del self.waiting_calls[late.payload]

    @rule(seconds=st.floats(0.0001, 3))
    def release(self, seconds: float) -> None:
        expected = planned(list(self.waiting_calls.values()), self.latency, self.now, MAX_BATCH)
        release = self.calls.release(self.now)
        assert release == expected
        if release is not None:
            for each in (*release.items, *release.infeasible):
                del self.waiting_calls[each.payload]
            batch = [*release.items, *self._fill(list(release.items))]
        elif self.waiting_jobs:
            batch = list(self._release_jobs())
        else:
            return
        assert len({each.bucket for each in batch}) == 1
        rows = sum(each.rows for each in batch)
        assert rows <= MAX_BATCH or len(batch) == 1
        self.latency.observe(batch[0].bucket, rows, seconds)

    def _fill(self, calls: list[Item]) -> list[JobItem]:
        estimates = self.latency.of(calls[0].bucket)
        rows = sum(each.rows for each in calls)
        alone_s = self.now + estimates.highest(rows)
        in_time = [each.deadline for each in calls if alone_s <= each.deadline]
        late = bool(in_time) and estimates.highest(MAX_BATCH) > min(in_time) - self.now
        jobs = list(self.waiting_jobs.values())
        expected = planned_jobs(jobs, self.latency, calls[0], rows, MAX_BATCH, self.slice_set_s)
        filled = self.jobs.fill(calls, MAX_BATCH, self.now)
        assert filled == ([] if late else expected)
        for each in filled:
            assert self.waiting_jobs.pop(each.key[1]) is each
            assert each.timeout_s is None, "no call is killed for the time limit of a job"
        return filled

    def _release_jobs(self) -> list[JobItem]:
        jobs = list(self.waiting_jobs.values())
        head = min(jobs, key=lambda each: (each.priority, each.key))
        args = (self.latency, head, head.rows, MAX_BATCH, self.slice_set_s)
        others = [] if head.suspect or head.alone else planned_jobs(jobs, *args)
        batch = self.jobs.release(MAX_BATCH)
        assert batch == [head, *others]
        rows = sum(each.rows for each in batch)
        takes_s = self.latency.of(head.bucket).middle(rows)
        assert len(batch) == 1 or takes_s <= self.slice_set_s
        assert len(batch) == 1 or not any(each.suspect or each.alone for each in batch)
        for each in batch:
            assert self.waiting_jobs.pop(each.key[1]) is each
        return batch

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.calls) == len(self.waiting_calls)
        assert len(self.jobs) == len(self.waiting_jobs)


TestCallsAndJobs = CallsAndJobs.TestCase
TestCallsAndJobs.settings = examples(100, stateful_step_count=40)


def numbers(batch: list[JobItem]) -> list[int]:
    return [each.key[1] for each in batch]


def test_jobs_run_in_batches_that_keep_to_their_slice() -> None:
    jobs = waiting(known((1, 0.001), (4, 0.004), (8, 0.008)), set_s=0.004)
    for number in range(6):
        jobs.offer(job(number))
    assert numbers(jobs.release(8)) == [0, 1, 2, 3]
    assert numbers(jobs.release(8)) == [4, 5]


def test_a_single_job_runs_whatever_it_takes() -> None:
    jobs = waiting(known((1, 60.0)), set_s=0.004)
    jobs.offer(job(0))
    jobs.offer(job(1))
    assert numbers(jobs.release(8)) == [0]


def test_the_first_of_a_kind_runs_alone_since_nothing_is_known_of_it() -> None:
    jobs = waiting(LatencyModel())
    jobs.offer(job(0))
    jobs.offer(job(1))
    assert numbers(jobs.release(8)) == [0]


def test_a_slice_that_is_not_set_is_about_two_executions() -> None:
    latency = known((1, 0.010))
    assert slice_s(None, latency.of("a")) == SLICE_CALLS * 0.010
    assert slice_s(None, latency.of("unknown")) == SLICE_S_MIN
    assert slice_s(0.5, latency.of("a")) == 0.5


def test_the_most_urgent_job_goes_first_and_suspects_go_alone() -> None:
    jobs = waiting(known((1, 0.001), (8, 0.001)), set_s=1.0)
    jobs.offer(job(0))
    jobs.offer(job(1, priority=1, suspect=True))
    jobs.offer(job(2))
    assert numbers(jobs.release(8)) == [1]
    assert numbers(jobs.release(8)) == [0, 2]


def test_models_that_do_not_batch_run_jobs_one_by_one() -> None:
    jobs = waiting(known((1, 0.001), (8, 0.001)), merges=False)
    jobs.offer(job(0))
    jobs.offer(job(1))
    assert jobs.fill([item(9)], 8, 0.0) == []
    assert numbers(jobs.release(8)) == [0]
    assert numbers(jobs.clear()) == [1]


def test_jobs_fill_up_a_batch_of_calls_unless_a_call_might_be_late_for_it() -> None:
    jobs = waiting(known((1, 0.001), (8, 0.003)), set_s=0.010)
    jobs.offer(job(0))
    assert jobs.fill([item(9, deadline=0.002)], 8, 0.0) == []
    assert jobs.fill([item(9, bucket="b")], 8, 0.0) == []
    assert jobs.fill([item(9, suspect=True)], 8, 0.0) == []
    assert jobs.fill([item(9, alone=True)], 8, 0.0) == []
    assert numbers(jobs.fill([item(9)], 8, 0.0)) == [0]


def test_one_slow_batch_does_not_keep_a_size_from_being_tried_again() -> None:
    latency = known((4, 0.001))
    latency.observe("a", 8, 5.0)
    assert latency.of("a").middle(8) == 0.002
    for _ in range(TYPICAL_AFTER):
        latency.observe("a", 8, 5.0)
    assert latency.of("a").middle(8) == 5.0
