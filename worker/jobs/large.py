"""A job of more rows than the model takes at a time: executed in pieces, answered as one. Pure.

Between two pieces, calls and other jobs have their turn. A piece is as long as any other batch with
jobs (`penstock.worker.jobs.queue`). A job that its replica dies with, or gives back, begins anew.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.shared.wire.messages import Failure, Request
from penstock.shared.wire.rows import RowCutter, RowJoiner, rows_named
from penstock.shared.wire.tensors import Tensor

NOTED_EVERY = 256
"""So many pieces apart it is noted again that a job has begun: few others begin meanwhile."""


class LargeJob:
    """What is done of a job, and what is not.

    Attributes:
        request: the whole.
        rows: in all.
        pieces: how many were begun.
        began: when the first one was, in monotonic seconds.
        infer_s: execution time of those that are done.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.rows = request.inputs[0].rows
        self.pieces = 0
        self.began = 0.0
        self.infer_s = 0.0
        self._cutter = RowCutter(request.inputs)
        self._joiner = RowJoiner(self.rows)
        self._start = self._end = 0

    def __repr__(self) -> str:
        return f"<LargeJob, {self.rows - self._joiner.missing} of {self.rows} rows done>"

    @property
    def fraction(self) -> float:
        """How much of it is done, from 0 to 1."""
        return 1 - self._joiner.missing / self.rows

    @property
    def done(self) -> bool:
        """Whether all of it is done."""
        return not self._joiner.missing

    def next(self, rows: int) -> Request:
        """The next piece; the one before is done."""
        self.pieces += 1
        inputs = self._cutter.next(rows)
        self._start, self._end = self._end, self._end + inputs[0].rows
        return replace(self.request, inputs=inputs)

    def add(self, outputs: tuple[Tensor, ...]) -> None:
        """What came of the piece that ran.

        Raises:
            RowsError: it does not fit to what came of those before.
        """
        self._joiner.add(self._start, self._end - self._start, outputs)

    def outputs(self) -> tuple[Tensor, ...]:
        """The answer, once all is done."""
        return self._joiner.outputs()

    def failed(self, failure: Failure) -> Failure:
        """What the job is told of a failure of the piece that ran."""
        rows = rows_named(self._start, self._end - self._start, self.rows)
        return replace(failure, message=f"{rows}: {failure.message}")
