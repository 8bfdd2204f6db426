"""The queue of a replica, and which of it runs next.

Theory. Items wait in buckets; only items of one bucket are ever merged, and the caller puts
everything that a model could tell apart (names, datatypes, inner shapes, parameters) into the
bucket's key, so that a mixed-up batch cannot be built. Order is by priority, then by earliest
deadline. The queue is work-conserving: an idle runtime takes what there is, and batches form from
what gathers while it is busy (the clipper/Triton "delay" is 0 unless an operator sets one).

A batch grows while it still meets the earliest deadline in it, by the high estimate of the latency
model. Two rules keep estimates from doing harm:
- the first item in order always runs, whatever its estimate says: else one bad estimate would lock
  the model out for ever, because nothing would run that could correct it;
- an item that no longer makes its deadline by the high estimate runs, but does not limit the
  others: else a backlog would be worked off one by one, just when large batches are needed most.

Invariants (tests/unit/worker/test_batching.py): every accepted item leaves exactly once, by
`release`, `expire` or `cancel`; rows of a batch never exceed the limit, unless a single item does;
an expired item is never released; items of different buckets never share a batch; suspects run
alone.

Previous stop of a request: `worker.session`. Next: `worker.executor`.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from shared.records import record
from worker.latency_model import LatencyModel

ARRIVAL_SMOOTHING = 0.1
"""Weight of the newest gap in the moving average of gaps between arrivals."""

SWEEP_FLOOR = 64
"""Heaps are not swept for fewer dead entries than this."""

_Entry: TypeAlias = tuple[Any, ...]
"""What an order sorts by, a sequence number that breaks ties, and the item itself."""


class DispatchReason(StrEnum):
    """Why a batch was released with the size it has."""

    IDLE = "idle"  # the runtime was free, and this was all there was
    FULL = "full"  # no more rows fit
    DEADLINE = "deadline"  # one row more would have missed a deadline
    WAITED = "waited"  # the queue delay that the operator allows was used


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
        deadline: monotonic time in seconds after which it must not start.
        enqueued: monotonic time at which it was offered.
        payload: the caller's, never looked at here.
        suspect: it must run alone.
        lane, waiting: the queue's own notes.
    """

    key: Key
    bucket: Hashable
    rows: int
    priority: int
    deadline: float
    enqueued: float
    payload: Any
    suspect: bool = False
    lane: Hashable = None
    waiting: bool = False


@record
class Release:
    """A batch to run now, and items found to be too late to run at all."""

    items: tuple[Item, ...]
    reason: DispatchReason
    infeasible: tuple[Item, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all items together."""
        return sum(item.rows for item in self.items)


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


class _Heap:
    """Waiting items in some order; those that left are skipped, and swept when they outnumber."""

    __slots__ = ("_entries", "_living")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._living = 0

    def __len__(self) -> int:
        return self._living

    def push(self, entry: _Entry) -> None:
        heapq.heappush(self._entries, entry)
        self._living += 1

    def first(self) -> _Entry | None:
        while self._entries and not self._entries[0][-1].waiting:
            heapq.heappop(self._entries)
        return self._entries[0] if self._entries else None

    def pop_first(self) -> None:
        """Take out the entry that `first` gave."""
        heapq.heappop(self._entries)
        self._living -= 1

    def left(self) -> None:
        """An item that has an entry here was marked as no longer waiting."""
        self._living -= 1
        if len(self._entries) > 2 * self._living + SWEEP_FLOOR:
            self._entries = [entry for entry in self._entries if entry[-1].waiting]
            heapq.heapify(self._entries)


class BatchQueue:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(self, limits: BatchLimits, latency: LatencyModel) -> None:
        self._limits = limits
        self._latency = latency
        self._rows_per_batch = max(limits.max_batch_size, 1)
        self._waiting: dict[Key, Item] = {}
        self._rows = 0
        self._sequence = 0
        self._order = _Heap()  # by priority, deadline
        self._expiry = _Heap()  # by deadline
        self._lanes: dict[Hashable, _Heap] = {}  # items that may merge, by priority, deadline
        self._last_arrival: float | None = None
        self._arrival_gap_s = float("inf")
        self._wake_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self)} items, {self._rows} rows, {len(self._lanes)} lanes>"

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def halve_batch(self, failed_rows: int) -> int:
        """After `failed_rows` rows ran out of memory, allow half of that; returns the new limit."""
        self._rows_per_batch = max(min(self._rows_per_batch, failed_rows) // 2, 1)
        return self._rows_per_batch

    def offer(self, item: Item) -> bool:
        """Accept an item, or refuse it because the queue is full (False).

        Raises:
            ValueError: if an item with this key already waits.
        """
        if item.key in self._waiting:
            raise ValueError(f"item {item.key!r} already waits")
        if self._waiting and self._rows + item.rows > self._limits.queue_rows_max:
            return False
        self._note_arrival(item.enqueued)
        self._sequence += 1
        alone = item.suspect or self._limits.max_batch_size <= 1
        item.lane = (item.bucket, self._sequence) if alone else item.bucket
        item.waiting = True
        self._waiting[item.key] = item
        self._rows += item.rows
        entry = (item.priority, item.deadline, self._sequence, item)
        self._order.push(entry)
        self._lanes.setdefault(item.lane, _Heap()).push(entry)
        self._expiry.push((item.deadline, self._sequence, item))
        return True

    def cancel(self, key: Key) -> Item | None:
        """Take an item out; None if it does not wait (any more)."""
        item = self._waiting.get(key)
        if item is not None:
            self._remove(item)
        return item

    def expire(self, now: float) -> list[Item]:
        """Take out every item whose deadline has come."""
        expired: list[Item] = []
        while (entry := self._expiry.first()) is not None and entry[0] <= now:
            self._remove(entry[-1])
            expired.append(entry[-1])
        return expired

    def next_deadline(self) -> float | None:
        """When `expire`, or `release` after a wait, has something to do; None: not by itself."""
        first = self._expiry.first()
        if first is None:
            return None
        expiry: float = first[0]
        return expiry if self._wake_at is None else min(expiry, self._wake_at)

    def release(self, now: float) -> Release | None:
        """The batch that an idle runtime is to run now; None if nothing waits or is worth a wait.

        Expired items are never released: call `expire(now)` first.
        """
        self._wake_at = None
        head = self._order.first()
        if head is None:
            return None
        lane = self._lanes[head[-1].lane]
        taken, infeasible, reason = self._gather(lane, now)
        items = [entry[-1] for entry in taken]
        if reason is DispatchReason.IDLE and self._limits.max_queue_delay_s > 0:
            self._wake_at = self._worth_waiting_until(items, now)
            if self._wake_at is not None:
                self._lanes[head[-1].lane] = lane
                for entry in taken:
                    lane.push(entry)
                return Release((), reason, infeasible) if infeasible else None
            if now >= items[0].enqueued + self._limits.max_queue_delay_s:
                reason = DispatchReason.WAITED
        for item in items:
            self._remove(item, from_lane=False)
        return Release(tuple(items), reason, infeasible)

    def _gather(
        self, lane: _Heap, now: float
    ) -> tuple[list[_Entry], tuple[Item, ...], DispatchReason]:
        """Take the next batch off a lane; its items still count as waiting."""
        taken: list[_Entry] = []
        infeasible: list[Item] = []
        rows = 0
        earliest = float("inf")
        reason = DispatchReason.IDLE
        while (entry := lane.first()) is not None:
            item: Item = entry[-1]
            if taken and rows + item.rows > self._rows_per_batch:
                reason = DispatchReason.FULL
                break
            if taken and now + self._latency.lower(item.bucket, item.rows) > item.deadline:
                self._remove(item)
                infeasible.append(item)
                continue
            in_time = now + self._latency.upper(item.bucket, item.rows) <= item.deadline
            limit = min(earliest, item.deadline) if in_time else earliest
            if taken and now + self._latency.upper(item.bucket, rows + item.rows) > limit:
                reason = DispatchReason.DEADLINE
                break
            lane.pop_first()
            taken.append(entry)
            rows += item.rows
            earliest = limit
        if rows >= self._rows_per_batch:
            reason = DispatchReason.FULL
        return taken, tuple(infeasible), reason

    def _worth_waiting_until(self, items: list[Item], now: float) -> float | None:
        """Until when to wait for a fuller batch; None if that is not worth it.

        It is, while the allowed delay is not used up, another arrival is likely within it, a row
        more makes each row cheaper, and every deadline is still met afterwards.
        """
        if items[0].lane is not items[0].bucket:
            return None
        rows = sum(item.rows for item in items)
        shape = items[0].bucket
        more = self._latency.upper(shape, rows + 1)
        slack = min(item.deadline for item in items) - more
        until = min(items[0].enqueued + self._limits.max_queue_delay_s, slack)
        if until <= now or now + self._arrival_gap_s > until:
            return None
        cheaper = more / (rows + 1) < self._latency.upper(shape, rows) / rows
        return until if cheaper else None

    def _note_arrival(self, now: float) -> None:
        if self._last_arrival is not None:
            gap = max(now - self._last_arrival, 0.0)
            if self._arrival_gap_s == float("inf"):
                self._arrival_gap_s = gap
            else:
                self._arrival_gap_s += ARRIVAL_SMOOTHING * (gap - self._arrival_gap_s)
        self._last_arrival = now

    def _remove(self, item: Item, *, from_lane: bool = True) -> None:
        item.waiting = False
        del self._waiting[item.key]
        self._rows -= item.rows
        self._order.left()
        self._expiry.left()
        lane = self._lanes.get(item.lane)
        if lane is not None:
            if from_lane:
                lane.left()
            if not lane:
                del self._lanes[item.lane]
