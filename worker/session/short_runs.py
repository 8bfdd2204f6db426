"""Whether the replica's loop runs a batch itself, rather than the executor's thread. Pure.

Theory. To hand a batch over and take its outcome back costs two switches between threads and a turn
of the loop, which is more than a small model takes; while a long batch runs, the loop must hear and
answer. So batches run in the loop that are surely short: the median of the last executions of that
shape and size is below `SHORT_S`. Not the longest: on the thread, a time includes the wait for the
interpreter, which the loop may hold, and on a busy machine that for a processor.

A model may become slow all the same, and the loop is then silent until it is done: gateways stop
routing to the replica until they hear of it again, and answer what expires meanwhile themselves.
After one execution in the loop that was not short by far, the thread runs the next `SLOW_PENALTY`
batches, whatever their estimates, so that a model that is seldom slow stalls the loop seldom.
"""

from __future__ import annotations

from penstock.worker.session.latency_model import Estimates

SHORT_S = 300e-6
"""Longest median; for what takes longer, the switches matter little, and the loop has better to do
meanwhile. With 1 request of four numbers in flight, a call takes 310 us instead of 410 (processor
time 226 us instead of 304); with 16 of 784 numbers, which run for 200 us, 650 to 820 us instead of
730 to 910."""

SLOW_S = 5e-3
"""In the loop, more than this is slow. Less may be the kernel's doing, and harms nobody."""

SLOW_PENALTY = 1000
"""Batches that are run on the thread after a slow one."""


class ShortRuns:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._penalty = 0

    def allow(self, estimates: Estimates, rows: int) -> bool:
        """Whether the loop may run the next batch, of so many rows, itself."""
        if self._penalty:
            self._penalty -= 1
            return False
        return estimates.typical(rows) < SHORT_S

    def ran(self, seconds: float) -> None:
        """The loop ran a batch."""
        if seconds > SLOW_S:
            self._penalty = SLOW_PENALTY
