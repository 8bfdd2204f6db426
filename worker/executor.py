"""Runs batches on a thread of its own, so that the replica's loop goes on meanwhile.

Inference libraries release the interpreter while they compute. There is one thread because a
runtime executes one batch at a time; what gathers in between forms the next batch. Only batches
that take less than to hand them over do not come here (`worker.short_runs`).

Previous stop of a request: `worker.batching`. Next: `worker.runtimes`, then back to
`worker.session` with the outcome.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shared.messages import Request
from shared.telemetry import get_logger
from worker.assembly import copied_bytes, merge, split
from worker.mailbox import Mailbox
from worker.outcomes import Completed, Failed, FailureKind, Outcome
from worker.runtimes.base import ExecutionError, Runtime

log = get_logger("executor")

Result = TypeVar("Result")


def run_batch(runtime: Runtime, requests: Sequence[Request]) -> Outcome:
    """Execute requests as one batch. Never raises: a failure is an outcome, told to the log."""
    started = time.monotonic()
    try:
        inputs = merge(requests, runtime.static_rows)
        outputs = runtime.execute(inputs, requests[0].parameters)
        infer_s = time.monotonic() - started
        shares = split(outputs, requests, runtime.interface)
        return Completed(shares, infer_s, copied_bytes(requests, inputs, shares))
    except BaseException as error:  # models exit, and an executor that ended would hang its calls
        return failed(error, time.monotonic() - started, len(requests))


def failed(error: BaseException, infer_s: float, requests: int) -> Failed:
    """What was raised in an execution as its outcome, told to the log.

    Args:
        error: what was raised.
        infer_s: how long it took, in seconds.
        requests: how many were executed together.
    """
    if isinstance(error, ExecutionError):
        kind, reason = error.kind, str(error)
    elif isinstance(error, MemoryError):
        kind, reason = FailureKind.OUT_OF_MEMORY, "out of memory on the host"
    else:
        kind, reason = FailureKind.INPUT, f"{type(error).__name__}: {error}"
    log.warning("execution failed", kind=kind.value, requests=requests, reason=reason[:2000])
    return Failed(kind, infer_s, reason[:2000])


class Executor(Generic[Result]):
    """One thread that runs one job after another.

    Attributes:
        wake_fd: becomes readable when a result is there to be collected.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Result]] = queue.SimpleQueue()
        self._results: Mailbox[Result] = Mailbox()
        self.wake_fd = self._results.wake_fd

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, name="executor", daemon=True).start()

    def submit(self, job: Callable[[], Result]) -> None:
        """Run `job` after those submitted before; it must not raise."""
        self._jobs.put(job)

    def collect(self) -> list[Result]:
        """Results since the last call, in order."""
        return self._results.collect()

    def _run(self) -> None:
        while True:
            self._results.put(self._jobs.get()())
