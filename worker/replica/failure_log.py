"""The line that tells the operator why an execution or a load failed: what was raised, where, and
for whom.

Callers are told that it failed, and nothing of this. They are found by what the line names: calls
as `GATEWAY/ATTEMPT`, which the gateway's line about the request names too, and jobs by their ids.
Nothing is made for an execution that succeeds.

A process loads once, and the next one that tries waits longer each time, so loads that fail write
one line in five seconds at most.

Lines are bounded by kind, in a process that has one model: a model that always fails writes some
dozens a minute. What was left out is counted in a line before the next failure after that minute.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from penstock.shared.process.log_limit import LogLimit
from penstock.worker.jobs.queue import JobItem
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError
from penstock.worker.runtimes.failures import readable
from penstock.worker.session.batching import Item
from penstock.worker.trial.trial import RunFailedError

REASON_CHARS_MAX = 2000

FRAMES_MAX = 20
"""The innermost frames of each exception, which are those of the model's own code."""

FRAME_CHARS_MAX = 500
"""Of a frame, or of an exception's message, which may repeat all that a client sent."""

CAUSE_CHARS_MAX = 500
"""Of an exception's type and first line, which a job's record keeps."""

TRACEBACK_CHARS_MAX = 8000
"""Its end is kept, where it says what was raised last."""

NAMED_MAX = 64
"""Calls and jobs that a line names. A batch is halved until what fails is alone: that line names
it."""


_OURS = (ExecutionError, ModelLoadError, RunFailedError)


class FailureLog:
    """See the module's docstring.

    Args:
        log: where lines go.
        clock: monotonic seconds.
    """

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._limit = LogLimit()

    def tell(
        self, error: BaseException, kind: str, reason: str, requests: int, items: Sequence[Item]
    ) -> None:
        """An execution failed.

        Args:
            error: what was raised.
            kind: how it failed; one of a few.
            reason: the same in one line.
            requests: how many were executed together.
            items: they, as far as they have names.
        """
        now = self._clock()
        for over, count in self._limit.over(now).items():
            self._log.warning("lines were left out: executions failed", kind=over, left_out=count)
        if not self._limit.may_write(kind if requests == 1 else f"{kind} of several", now):
            return
        raised = _own(error)
        self._log.warning(
            "execution failed",
            kind=kind,
            exception_type=type(raised).__name__,
            reason=reason[:REASON_CHARS_MAX],
            requests=requests,
            **named(items),
            traceback=traceback_of(raised),
        )

    def tell_load(self, error: BaseException, *, invalid: bool) -> None:
        """A load failed, for good if it is `invalid`."""
        raised = _own(error)
        self._log.warning(
            "load failed",
            kind="invalid" if invalid else "failed",
            exception_type=type(raised).__name__,
            reason=readable(str(error))[:REASON_CHARS_MAX],
            traceback=traceback_of(raised),
        )


def _own(error: BaseException) -> BaseException:
    """What the model raised, rather than what its runtime turned that into."""
    while isinstance(error, _OURS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def cause_of(error: BaseException) -> str:
    """The type of what the model raised, and the first line of what that says."""
    raised = _own(error)
    try:
        first = str(raised).strip().partition("\n")[0]
    except Exception:  # its words are the model's own code
        first = "(it cannot say)"
    name = type(raised).__name__
    return readable(f"{name}: {first}" if first else name)[:CAUSE_CHARS_MAX]


def named(items: Sequence[Item]) -> dict[str, list[str]]:
    """Fields of a line that name what was executed."""
    jobs = [item.job_id for item in items[:NAMED_MAX] if isinstance(item, JobItem)]
    calls = [
        f"{item.key[0]}/{item.key[1]}"
        for item in items[:NAMED_MAX]
        if not isinstance(item, JobItem)
    ]
    return {name: names for name, names in (("calls", calls), ("jobs", jobs)) if names}


def traceback_of(error: BaseException) -> str:
    """Where it was raised, without the values of variables, bounded in length."""
    parts = traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES_MAX)
    text = "".join(
        part if len(part) <= FRAME_CHARS_MAX else f"{part[:FRAME_CHARS_MAX]}...\n" for part in parts
    )
    return readable(text[-TRACEBACK_CHARS_MAX:].rstrip())
