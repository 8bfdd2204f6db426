"""The queue of a replica, and which of it runs next.

Theory. Items wait in lanes, one for each bucket; only items of one bucket are ever merged, and the
caller puts everything that a model could tell apart (names, datatypes, inner shapes, parameters)
into the bucket, so that a mixed-up batch cannot be built. What must run alone (suspects; what no
trial had the like of; all items of a model that does not batch) waits in a lane of its own, of
which one is taken at a time. The queue is work-conserving: an idle runtime takes what there is, and
batches form from what gathers while it is busy (the clipper/Triton "delay" is 0 unless an operator
sets one).

An item has two limits: it must have begun by its `start_by`, and have ended by its deadline.
Without a limit on the time in queue both are the same moment. Order is by priority, then by
earliest `start_by`, then by arrival: that is what an item runs out of first in the queue. What is
past its `start_by` has expired. Whether a batch is in time is asked of the deadlines alone.

A batch grows while it still meets the earliest deadline in it, by the high estimate of the latency
model. Two rules keep estimates from doing harm:
- the first item in order always runs, whatever its estimate says: else one bad estimate would lock
  the model out for ever, because nothing would run that could correct it;
- an item that no longer makes its deadline by the high estimate runs, but does not limit the
  others: else a backlog would be worked off one by one, just when large batches are needed most.
Where even the highest estimate of any batch meets the earliest deadline, neither rule can matter:
the batch is then taken at once, without a look at each item's estimates. No deadline is before the
earliest `start_by`, which is known; only if that is too early, the batch's own are looked at.

Items arrive nearly in order: most have the same priority, and `start_by` mostly ascends. So lanes
are sorted lists: to append costs the same however many wait, and so does to take the first ones.
Three heaps, which this was before, cost 7 us per item, where 32 are offered and released; this
costs 1.3.

Invariants (tests/unit/worker/session/test_batching.py, which compares this with a plain model of
it): every accepted item leaves exactly once, by `release`, `expire` or `cancel`; rows of a batch
never exceed the limit, unless a single item does; an expired item is never released; items of
different buckets never share a batch; what must run alone does.

Previous stop of a request: `penstock.worker.session.session`. Next:
`penstock.worker.replica.executor`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from penstock.shared.wire.records import record
from penstock.worker.session.latency_model import LatencyModel

ARRIVAL_SMOOTHING = 0.1
"""Weight of the newest gap in the moving average of gaps between arrivals."""

START_MARGIN_S = 0.005
"""A wait for more rows ends so long before an item must begin: timers are up to a turn late."""

SWEEP_FLOOR = 64
"""Lists are not swept for fewer dead entries than this."""

_ALONE: Final = object()
"""The lane of what is never merged."""


class DispatchReason(StrEnum):
    """Why a batch was released with the size it has."""

    IDLE = "idle"  # the runtime was free, and this was all there was
    FULL = "full"  # no more rows fit
    DEADLINE = "deadline"  # one row more would have missed a deadline
    WAITED = "waited"  # the queue delay that the operator allows was used
    JOBS = "jobs"  # no call waits; never said of a `BatchQueue`


Key: TypeAlias = tuple[str, int]
"""What names an item: the link to its gateway, and the attempt id that the gateway chose."""


@dataclass(slots=True)
class Item:
    """Something that waits to be executed.

    Attributes:
        key: names it among all items of the replica.
        bucket: items with equal buckets may be merged; also the latency model's shape class.
        rows: its size in the batch dimension.
        priority: 1 (first) to 9 (last).
        deadline: monotonic time in seconds by which it must have ended.
        start_by: when it must have begun; never after the deadline. What was begun once, and runs
            again after its batch failed, has only its deadline.
        enqueued: monotonic time at which it was offered.
        payload: the caller's, never looked at here.
        suspect: it must run alone, and may end the process.
        alone: it must run alone, with no such fear (`penstock.worker.session.buckets`).
        unwanted: the caller's: its answer is to be discarded.
        waiting, sequence: the queue's own notes.
    """

    key: Key
    bucket: Hashable
    rows: int
    priority: int
    deadline: float
    start_by: float
    enqueued: float
    payload: Any
    suspect: bool = False
    alone: bool = False
    unwanted: bool = False
    waiting: bool = False
    sequence: int = 0


def _rank(item: Item) -> tuple[int, float, int]:
    return (item.priority, item.start_by, item.sequence)


def _start_by(item: Item) -> float:
    return item.start_by


@record
class Release:
    """A batch to run now, and items found to be too late to run at all."""

    items: tuple[Item, ...]
    reason: DispatchReason
    infeasible: tuple[Item, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all items together."""
        return sum([item.rows for item in self.items])


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of a queue.

    Attributes:
        max_batch_size: most rows in one batch; 0 or 1: no merging.
        max_queue_delay_s: longest that an idle runtime may wait for more rows.
        queue_rows_max: most rows that may wait; more are refused.
    """

    max_batch_size: int
    max_queue_delay_s: float = 0.0
    queue_rows_max: int = 4096


class BatchQueue:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(self, limits: BatchLimits, latency: LatencyModel) -> None:
        self._limits = limits
        self._latency = latency
        self._rows_per_batch = max(limits.max_batch_size, 1)
        self._count = 0
        self._rows = 0
        self._sequence = 0
        self._lanes: dict[Hashable, list[Item]] = {}  # each sorted by rank, none empty
        # A heap that holds the first item of every lane; others in it left, or come later anyway.
        self._heads: list[tuple[int, float, int, Item]] = []
        self._by_start: list[Item] = []  # what left is skipped, and swept when it outnumbers
        self._last_arrival: float | None = None
        self._arrival_gap_s = float("inf")
        self._wake_at: float | None = None

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self)} items, {self._rows} rows, {len(self._lanes)} lanes>"

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def rows_per_batch(self) -> int:
        """Most rows in one batch now."""
        return self._rows_per_batch

    def halve_batch(self, failed_rows: int) -> int:
        """After `failed_rows` rows ran out of memory, allow half of that; returns the new limit."""
        self._rows_per_batch = max(min(self._rows_per_batch, failed_rows) // 2, 1)
        return self._rows_per_batch

    def merge_at_most(self, rows: int) -> None:
        """From now on items share a batch of so many rows at most; 0 or 1: each is a batch."""
        self._rows_per_batch = max(min(self._rows_per_batch, rows), 1)

    def offer(self, item: Item) -> bool:
        """Accept an item, or refuse it because the queue is full (False)."""
        if self._count and self._rows + item.rows > self._limits.queue_rows_max:
            return False
        if self._limits.max_queue_delay_s > 0:
            self._note_arrival(item.enqueued)
        self._sequence += 1
        item.sequence = self._sequence
        item.waiting = True
        self._count += 1
        self._rows += item.rows
        self._join_lane(item)
        by_start = self._by_start
        if by_start and item.start_by < by_start[-1].start_by:
            insort(by_start, item, key=_start_by)
        else:
            by_start.append(item)
        return True

    def cancel(self, item: Item) -> bool:
        """Take an item out; False if it does not wait (any more)."""
        if not item.waiting:
            return False
        self._remove(item)
        return True

    def expire(self, now: float) -> list[Item]:
        """Take out every item that was to begin by now, or to have ended."""
        expired: list[Item] = []
        while (first := self._earliest()) is not None and first.start_by <= now:
            self._remove(first)
            expired.append(first)
        return expired

    def next_deadline(self) -> float | None:
        """When `expire`, or `release` after a wait, has something to do; None: not by itself."""
        first = self._earliest()
        if first is None:
            return None
        return first.start_by if self._wake_at is None else min(first.start_by, self._wake_at)

    def release(self, now: float) -> Release | None:
        """The batch that an idle runtime is to run now; None if nothing waits or is worth a wait.

        Expired items are never released: call `expire(now)` first.
        """
        self._wake_at = None
        head = self._first()
        if head is None:
            return None
        items, infeasible, reason = self._gather(head, now)
        for item in infeasible:
            self._remove(item)
        if reason is DispatchReason.IDLE and self._limits.max_queue_delay_s > 0:
            self._wake_at = self._worth_waiting_until(items, now)
            if self._wake_at is not None:
                return Release((), reason, infeasible) if infeasible else None
            if now >= items[0].enqueued + self._limits.max_queue_delay_s:
                reason = DispatchReason.WAITED
        self._remove_first(items)
        return Release(tuple(items), reason, infeasible)

    def _lane_of(self, item: Item) -> Hashable:
        alone = item.suspect or item.alone or self._limits.max_batch_size <= 1
        return _ALONE if alone else item.bucket

    def _join_lane(self, item: Item) -> None:
        name = self._lane_of(item)
        lane = self._lanes.get(name)
        if lane is None:
            self._lanes[name] = [item]
            self._note_head(item)
            return
        last = lane[-1]
        if item.priority == last.priority and item.start_by >= last.start_by:
            lane.append(item)
            return
        insort(lane, item, key=_rank)
        if lane[0] is item:
            self._note_head(item)

    def _note_head(self, item: Item) -> None:
        """An item became the first of its lane."""
        heads = self._heads
        heapq.heappush(heads, (*_rank(item), item))
        if len(heads) > 2 * len(self._lanes) + SWEEP_FLOOR:
            self._heads = [(*_rank(lane[0]), lane[0]) for lane in self._lanes.values()]
            heapq.heapify(self._heads)

    def _first(self) -> Item | None:
        """The first of all in order: the first of its lane, so that it is among the heads."""
        heads = self._heads
        while heads and not heads[0][-1].waiting:
            heapq.heappop(heads)
        return heads[0][-1] if heads else None

    def _earliest(self) -> Item | None:
        """The item that must begin first."""
        by_start = self._by_start
        if by_start and by_start[0].waiting:
            return by_start[0]
        gone = 0
        for item in by_start:
            if item.waiting:
                break
            gone += 1
        if gone:
            del by_start[:gone]
        return by_start[0] if by_start else None

    def _gather(
        self, head: Item, now: float
    ) -> tuple[Sequence[Item], tuple[Item, ...], DispatchReason]:
        """The next batch, which are the first of their lane but for those that are infeasible."""
        limit = self._rows_per_batch
        lane_name = self._lane_of(head)
        if lane_name is _ALONE:
            lane, count, rows = [head], 1, head.rows
        else:
            lane = self._lanes[lane_name]
            count, rows = _fitting(lane, limit)
        if count > 1:
            earliest = self._earliest()
            assert earliest is not None
            over = now + self._latency.of(head.bucket).highest(rows)
            if over > earliest.start_by and over > min([item.deadline for item in lane[:count]]):
                return self._gather_one_by_one(lane, now)
        full = rows >= limit or count < len(lane)
        return lane[:count], (), DispatchReason.FULL if full else DispatchReason.IDLE

    def _gather_one_by_one(
        self, lane: Sequence[Item], now: float
    ) -> tuple[list[Item], tuple[Item, ...], DispatchReason]:
        taken: list[Item] = []
        infeasible: list[Item] = []
        rows = 0
        earliest = float("inf")
        estimates = self._latency.of(lane[0].bucket)
        reason = DispatchReason.IDLE
        for item in lane:
            if taken and rows + item.rows > self._rows_per_batch:
                reason = DispatchReason.FULL
                break
            if taken and now + estimates.lower(item.rows) > item.deadline:
                infeasible.append(item)
                continue
            in_time = now + estimates.upper(item.rows) <= item.deadline
            limit = min(earliest, item.deadline) if in_time else earliest
            if taken and now + estimates.upper(rows + item.rows) > limit:
                reason = DispatchReason.DEADLINE
                break
            taken.append(item)
            rows += item.rows
            earliest = limit
        if rows >= self._rows_per_batch:
            reason = DispatchReason.FULL
        return taken, tuple(infeasible), reason

    def _worth_waiting_until(self, items: Sequence[Item], now: float) -> float | None:
        """Until when to wait for a fuller batch; None if that is not worth it.

        It is, while the allowed delay is not used up, another arrival is likely within it, a row
        more makes each row cheaper, and every limit is still met afterwards.
        """
        if self._lane_of(items[0]) is _ALONE:
            return None
        rows = sum([item.rows for item in items])
        estimates = self._latency.of(items[0].bucket)
        more = estimates.upper(rows + 1)
        slack = min([item.deadline for item in items]) - more
        begun = min([item.start_by for item in items]) - START_MARGIN_S
        until = min(items[0].enqueued + self._limits.max_queue_delay_s, slack, begun)
        if until <= now or now + self._arrival_gap_s > until:
            return None
        cheaper = more / (rows + 1) < estimates.upper(rows) / rows
        return until if cheaper else None

    def _note_arrival(self, now: float) -> None:
        if self._last_arrival is not None:
            gap = max(now - self._last_arrival, 0.0)
            if self._arrival_gap_s == float("inf"):
                self._arrival_gap_s = gap
            else:
                self._arrival_gap_s += ARRIVAL_SMOOTHING * (gap - self._arrival_gap_s)
        self._last_arrival = now

    def _remove(self, item: Item) -> None:
        lane = self._lanes[self._lane_of(item)]
        position = bisect_left(lane, _rank(item), key=_rank)
        del lane[position]
        item.waiting = False
        if position == 0:
            self._lane_moved(item, lane)
        self._left(1, item.rows)

    def _remove_first(self, items: Sequence[Item]) -> None:
        """Take out the first items of a lane, which these are."""
        lane = self._lanes[self._lane_of(items[0])]
        del lane[: len(items)]
        rows = 0
        for item in items:
            item.waiting = False
            rows += item.rows
        self._lane_moved(items[0], lane)
        self._left(len(items), rows)

    def _lane_moved(self, first: Item, lane: list[Item]) -> None:
        """What was the first of a lane is not in it any more."""
        if lane:
            self._note_head(lane[0])
        else:
            del self._lanes[self._lane_of(first)]

    def _left(self, count: int, rows: int) -> None:
        self._count -= count
        self._rows -= rows
        if not self._count:
            self._heads.clear()
            self._by_start.clear()
        elif len(self._by_start) > 2 * self._count + SWEEP_FLOOR:
            self._by_start = [item for item in self._by_start if item.waiting]


def _fitting(lane: Sequence[Item], limit: int) -> tuple[int, int]:
    """How many of a lane's first items fit into one batch, at least one, and their rows."""
    rows = 0
    for count, item in enumerate(lane):
        if rows + item.rows > limit and count:
            return count, rows
        rows += item.rows
    return len(lane), rows
