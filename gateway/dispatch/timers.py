"""One timer for each open call: a heap in which what is no longer true is skipped.

A call's timer can be set earlier or later at any time. Each change is a new entry; an entry counts
only if it is the call's last one, and the rest are dropped when they come up, or when they are most
of the heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from penstock.gateway.dispatch.attempts import NEVER, OpenCall

SWEEP_FLOOR = 1024
"""The heap is not swept for fewer dead entries than this."""


class CallTimers:
    """See the module's docstring.

    Args:
        calls: the open calls, by id; whoever is not there has no timer.
    """

    def __init__(self, calls: Mapping[int, OpenCall]) -> None:
        self._calls = calls
        self._heap: list[tuple[float, int]] = []

    def __repr__(self) -> str:
        return f"<CallTimers {len(self._heap)} entries for {len(self._calls)} calls>"

    def set(self, call: OpenCall, when: float) -> None:
        """Have the call's timer go off at `when`, and at no other time."""
        if when == call.schedule.timer_at:
            return
        call.schedule.timer_at = when
        heapq.heappush(self._heap, (when, call.id))
        if len(self._heap) > 2 * len(self._calls) + SWEEP_FLOOR:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def due(self, now: float) -> Iterator[OpenCall]:
        """The calls whose timers go off now; each is to be set again, or closed."""
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_live(entry):
                call = self._calls[entry[1]]
                call.schedule.timer_at = NEVER
                yield call

    def next(self) -> float | None:
        """When the first timer goes off; None if there is none."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _is_live(self, entry: tuple[float, int]) -> bool:
        call = self._calls.get(entry[1])
        return call is not None and call.schedule.timer_at == entry[0]
