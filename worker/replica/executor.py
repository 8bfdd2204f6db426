"""Runs batches on the main thread, so that the replica's loop, on another, goes on meanwhile.

A model is loaded there as well, as in a server of MLflow's: some of what its code may do (signal
handlers, above all) is allowed on the main thread only.

Inference libraries release the interpreter while they compute. There is one thread because a
runtime executes one batch at a time; what gathers in between forms the next batch. Only batches
that take less than to hand them over do not come here (`penstock.worker.session.short_runs`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Parameters, Request, is_worded
from penstock.shared.wire.tensors import AnyArray, Tensor, is_scoring
from penstock.worker.replica.assembly import OutputShapeError, copied_bytes, merge, split, whole
from penstock.worker.replica.failure_log import FailureLog, cause_of, named
from penstock.worker.replica.mailbox import Mailbox
from penstock.worker.runtimes.base import ExecutionError, RowsMisfitError, Runtime
from penstock.worker.runtimes.failures import readable
from penstock.worker.session.batching import Item
from penstock.worker.session.outcomes import Completed, Failed, FailureKind, Outcome

log = get_logger("executor")

failure_log = FailureLog(log, time.monotonic)

Result = TypeVar("Result")


def run_batch(runtime: Runtime, requests: Sequence[Request], items: Sequence[Item] = ()) -> Outcome:
    """Execute requests as one batch. Never raises: a failure is an outcome, told to the log.

    Args:
        items: of these requests, by which the log names them.
    """
    started = time.monotonic()
    try:
        if is_scoring(requests[0].inputs):
            return Completed([(_scored(runtime, requests[0]),)], time.monotonic() - started)
        if is_worded(requests[0].parameters):
            shares = _worded(runtime, requests)
            return Completed(shares, time.monotonic() - started)
        static_rows = runtime.static_rows
        inputs = merge(requests, static_rows)
        if static_rows == 1:
            outputs: Sequence[AnyArray] | Mapping[str, AnyArray] = _execute_row_by_row(
                runtime, inputs, requests[0].parameters
            )
            static_rows = None
        else:
            outputs = runtime.execute(inputs, requests[0].parameters)
        infer_s = time.monotonic() - started
        misfit = ""
        try:
            shares = split(outputs, requests, runtime.interface, static_rows)
        except OutputShapeError as uncut:
            if not _is_alone(requests, static_rows):
                return _misfit(uncut, infer_s, len(requests), items)
            misfit = str(uncut)
            shares = [whole(outputs, requests[0], runtime.interface)]
        return Completed(shares, infer_s, copied_bytes(requests, inputs, shares), misfit)
    except OutputShapeError as unstacked:  # a name has one type where this is compiled
        return _misfit(unstacked, time.monotonic() - started, len(requests), items)
    except BaseException as error:  # models exit, and an executor that ended would hang its calls
        return failed(error, time.monotonic() - started, len(requests), items)


def _scored(runtime: Runtime, request: Request) -> Tensor:
    """What a body in MLflow's words is answered; it is always alone.

    Raises:
        ExecutionError: if the model failed, or nothing here reads such bodies.
    """
    if runtime.scorer is None:
        raise ExecutionError(FailureKind.REFUSED, "its replicas do not read bodies of MLflow's")
    return runtime.scorer.score(request.inputs[0].data, request.parameters)


def _worded(runtime: Runtime, requests: Sequence[Request]) -> list[tuple[Tensor, ...]]:
    """What MLflow's server would answer to each of these requests.

    Raises:
        ExecutionError: if the model failed, or nothing here words answers.
        OutputShapeError: if what the model returned cannot be divided.
    """
    if runtime.words is None:
        raise ExecutionError(FailureKind.REFUSED, "its replicas do not word answers as MLflow does")
    rows = [request.inputs[0].rows for request in requests]
    try:
        answers = runtime.words(merge(requests), requests[0].parameters[1:], rows)
    except RowsMisfitError as error:
        raise OutputShapeError(str(error)) from error
    return [(answer,) for answer in answers]


def _is_alone(requests: Sequence[Request], static_rows: int | None) -> bool:
    """Whether all that was executed is one request."""
    return len(requests) == 1 and static_rows in (None, requests[0].inputs[0].rows)


def _execute_row_by_row(
    runtime: Runtime, inputs: Mapping[str, AnyArray], parameters: Parameters
) -> list[AnyArray]:
    """What a model that takes one row only answers to several.

    Raises:
        OutputShapeError: if an answer is not one row, as those before it.
    """
    rows = next(iter(inputs.values())).shape[0]
    answers: list[Sequence[AnyArray]] = []
    for i in range(rows):
        row = {name: array[i : i + 1] for name, array in inputs.items()}
        answer = runtime.execute(row, parameters)
        assert not isinstance(answer, Mapping)  # which is of what is not batched
        answers.append(answer)
    return [
        _stacked(spec.name, [np.asarray(answer[position]) for answer in answers])
        for position, spec in enumerate(runtime.interface.outputs)
    ]


def _stacked(name: str, arrays: Sequence[AnyArray]) -> AnyArray:
    if len(arrays) == 1:
        return arrays[0]
    for array in arrays:
        if array.ndim == 0 or array.shape[0] != 1 or array.shape != arrays[0].shape:
            first, other = list(arrays[0].shape), list(array.shape)
            raise OutputShapeError(
                f"output {name!r} has shapes {first} and {other} for single rows, which cannot be "
                "one answer: send them as requests of one row"
            )
    return np.concatenate(arrays)


def _misfit(
    error: OutputShapeError, infer_s: float, requests: int, items: Sequence[Item]
) -> Failed:
    log.warning("outputs are not the batch", requests=requests, reason=str(error), **named(items))
    told = f"gave an answer that cannot be divided into rows: {error}"
    return Failed(FailureKind.MISFIT, infer_s, str(error), told)


def failed(
    error: BaseException, infer_s: float, requests: int, items: Sequence[Item] = ()
) -> Failed:
    """What was raised in an execution as its outcome, told to the log.

    Args:
        error: what was raised.
        infer_s: how long it took, in seconds.
        requests: how many were executed together.
        items: of these requests, by which the log names them.
    """
    if isinstance(error, ExecutionError):
        kind, reason = error.kind, str(error)
    elif isinstance(error, MemoryError):
        kind, reason = FailureKind.OUT_OF_MEMORY, "out of memory on the host"
    else:
        kind, reason = FailureKind.INPUT, f"{type(error).__name__}: {error}"
    reason = readable(reason)
    failure_log.tell(error, kind.value, reason, requests, items)
    return Failed(kind, infer_s, reason[:2000], cause=cause_of(error))


class Executor(Generic[Result]):
    """Runs one job after another on the thread that calls `run`.

    Attributes:
        wake_fd: becomes readable when a result is there to be collected.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Result] | None] = queue.SimpleQueue()
        self._results: Mailbox[Result] = Mailbox()
        self.wake_fd = self._results.wake_fd

    def run(self) -> None:
        """Run what is submitted until `end`."""
        while (job := self._jobs.get()) is not None:
            self._results.put(job())

    def end(self) -> None:
        """Have `run` return after what was submitted before."""
        self._jobs.put(None)

    def submit(self, job: Callable[[], Result]) -> None:
        """Run `job` after those submitted before; it must not raise."""
        self._jobs.put(job)

    def collect(self) -> list[Result]:
        """Results since the last call, in order."""
        return self._results.collect()
