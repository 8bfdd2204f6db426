"""Executes a freshly loaded model before it gets traffic, on the path that traffic will take.

That allocates what the first calls would pay for, finds out which batch sizes the model takes
where nothing says so, and gives the latency model its first numbers.

What the sizes say, by which of them ran:
    all                     the model takes any size
    only the first ones,    memory: the limit is the largest that ran
    the rest out of memory
    only one                a static batch size: others are padded to it
    none, or others         the model cannot be served; unless its inputs were guessed (text, open
                            sizes), which it may well refuse, while it takes those of clients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.deployment import ModelInterface
from shared.messages import Request
from shared.telemetry import get_logger
from shared.tensors import tensor_from_array
from worker.buckets import bucket_of
from worker.executor import run_batch
from worker.invented import invented_inputs, is_guess
from worker.latency_model import LatencyModel
from worker.outcomes import Completed, Failed, FailureKind, Outcome
from worker.runtimes.base import ModelLoadError, Runtime

RUNS_PER_SIZE = 2
"""The first run of a size pays for its allocations; the second one tells its time."""

log = get_logger("warmup")


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up found: the sizes that ran, in rows."""

    sizes: tuple[int, ...]


def warm_up(runtime: Runtime, latency: LatencyModel) -> WarmUp:
    """Run the model at batch sizes 1, 2, 4, ... up to its limit, and set what that finds out.

    Raises:
        ModelLoadError: if it cannot be served.
    """
    interface = runtime.interface
    batches = interface.max_batch_size > 0
    guessed = is_guess(interface.inputs, batches=batches)
    ran: list[int] = []
    failed: dict[int, Failed] = {}
    for rows in _sizes(interface, runtime.static_rows):
        request = _request(interface, rows)
        if request is None:
            break
        outcome = _run(runtime, request)
        if isinstance(outcome, Completed):
            latency.observe(bucket_of(request, batches=batches), rows, outcome.infer_s)
            ran.append(rows)
        else:
            failed[rows] = outcome
            if guessed or outcome.kind is not FailureKind.INPUT:
                break
    refused = guessed and len(ran) != 1  # nothing, or no size, tells what the model takes
    if failed and not (refused and failed[min(failed)].kind is FailureKind.INPUT):
        _take_in(runtime, ran, failed)
    return WarmUp(tuple(ran))


def _run(runtime: Runtime, request: Request) -> Outcome:
    for _ in range(RUNS_PER_SIZE):
        outcome = run_batch(runtime, [request])
        if isinstance(outcome, Failed):
            break
    return outcome


def _take_in(runtime: Runtime, ran: Sequence[int], failed: dict[int, Failed]) -> None:
    """Limit the model to what ran of it."""
    smallest = min(failed)
    if not ran or failed[smallest].kind is FailureKind.FATAL:
        reason = failed[smallest].reason
        raise ModelLoadError(f"the model failed its warm-up with {smallest} row(s): {reason}")
    if failed[smallest].kind is FailureKind.OUT_OF_MEMORY:
        limit = max(ran)
    elif len(ran) == 1:
        limit = runtime.static_rows = ran[0]
    else:
        raise ModelLoadError(
            f"the model runs with {_listed(ran)} rows, but failed with {smallest}: "
            f"{failed[smallest].reason}"
        )
    runtime.interface = runtime.interface.model_copy(update={"max_batch_size": limit})
    log.warning(
        "the model runs smaller batches than it may",
        max_batch_size=limit,
        static=runtime.static_rows is not None,
        reason=failed[smallest].reason[:500],
    )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(str(size) for size in sizes)


def _sizes(interface: ModelInterface, static_rows: int | None) -> list[int]:
    limit = interface.max_batch_size
    if limit == 0:
        return [1]
    if static_rows is not None:
        return [static_rows]
    powers = [1 << power for power in range(limit.bit_length()) if 1 << power < limit]
    return [*powers, limit]


def _request(interface: ModelInterface, rows: int) -> Request | None:
    arrays = invented_inputs(interface.inputs, rows if interface.max_batch_size > 0 else None)
    if arrays is None:
        return None
    return Request(0, 0, tuple([tensor_from_array(name, array) for name, array in arrays.items()]))
