"""Runs one job on a model that yields its answer in parts, so that it can be watched and stopped.

What is yielded is told as it comes. The last output is the answer, too, if it fits the interface.
Between two yields it is asked whether to stop; a model that is stopped sees its generator closed,
and may clean up. What a model does between two yields cannot be stopped from here.

It runs on the executor's thread, and so are `tell` and `stop` called from there. Previous stop of a
job: `penstock.worker.jobs.side`. Next: `penstock.worker.runtimes`, and back with the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeAlias

from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.payload import unpack_result
from penstock.shared.jobs.record import Content
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Request
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer
from penstock.worker.jobs.yields import Output, output_of, progress_of
from penstock.worker.replica.assembly import merge
from penstock.worker.replica.executor import failed, run_batch
from penstock.worker.runtimes.base import Runtime, StreamingRuntime
from penstock.worker.session.batching import Item
from penstock.worker.session.outcomes import Completed, Failed

log = get_logger("jobs")

Told: TypeAlias = Progress | tuple[Content, Buffer]
"""Progress, or an output with its bytes, which are to become a blob if they are many."""


@record
class Stopped:
    """The execution was given up, since `stop` said so; its time in seconds."""

    infer_s: float


@record
class NoAnswer:
    """The model's stream ended without an answer; the message is fit for the caller."""

    infer_s: float
    message: str


StreamOutcome: TypeAlias = Completed | Failed | Stopped | NoAnswer


def streams(runtime: Runtime, request: Request) -> bool:
    """Whether a request is executed as a stream: MLflow streams for one row only."""
    if not runtime.interface.streams:
        return False
    return not (runtime.interface.max_batch_size and request.inputs) or request.inputs[0].rows == 1


def run_stream(
    runtime: Runtime,
    request: Request,
    tell: Callable[[Told], None],
    stop: Callable[[], bool],
    items: Sequence[Item] = (),
) -> StreamOutcome:
    """Execute a request, alone. Never raises: a failure is an outcome, told to the log.

    A request that cannot be streamed is executed as any other, and nothing is told.

    Args:
        runtime: of the model.
        request: of one job.
        tell: is given whatever the model yields, at once; it must not block for long.
        stop: whether to give the execution up.
        items: the job, by which the log names it.

    Returns:
        `Completed` with one share of outputs; or how it ended without.
    """
    if stop():
        return Stopped(0.0)
    if not streams(runtime, request) or not isinstance(runtime, StreamingRuntime):
        return run_batch(runtime, [request], items)
    started = time.monotonic()
    last: Output | None = None
    try:
        with closing(_values(runtime, request)) as values:
            for value in values:
                last = _heard(value, runtime, request, tell) or last
                if stop():
                    break
            else:
                return _answered(last, time.monotonic() - started)
        return Stopped(time.monotonic() - started)
    except BaseException as error:  # models exit, and an executor that ended would hang its calls
        return failed(error, time.monotonic() - started, 1, items)


def _values(runtime: StreamingRuntime, request: Request) -> Generator[object]:
    return runtime.stream(merge([request], runtime.static_rows), request.parameters)


def _heard(
    value: object,
    runtime: Runtime,
    request: Request,
    tell: Callable[[Told], None],
) -> Output | None:
    """Tell what was yielded; the output, if it is one."""
    progress = progress_of(value)
    if progress is not None:
        tell(progress)
        return None
    output = output_of(value, request, runtime.interface)
    tell((output.content, output.data))
    return output


def _answered(last: Output | None, infer_s: float) -> Completed | NoAnswer:
    if last is None:
        return NoAnswer(infer_s, "the model yielded no output")
    if last.misfit:
        log.warning("the last yielded value is no answer", reason=last.misfit)
        return NoAnswer(infer_s, f"what the model yielded last is no answer: {last.misfit}")
    outputs = unpack_result(last.data).final.outputs
    return Completed([outputs], infer_s, len(last.data))
