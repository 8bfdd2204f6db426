"""Executes a freshly loaded model before it gets traffic, on the path that traffic will take.

That allocates what the first calls would pay for, proves that the model runs at the batch sizes
that it will be given, and gives the latency model its first numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.deployment import ModelInterface
from shared.messages import Request
from shared.tensors import NUMPY_OF, Tensor, TensorSpec, encode_bytes_elements
from worker.executor import run_batch
from worker.latency_model import LatencyModel
from worker.runtimes.base import ModelLoadError, Runtime
from worker.session import Completed, bucket_of

RUNS_PER_SIZE = 2
"""The first run of a size pays for its allocations; the second one tells its time."""

TENSOR_BYTES_MAX = 256 * 1024 * 1024
"""Sizes whose invented inputs would be larger than this are not tried."""

FREE_SIZE = 1
"""What is taken for a dimension, other than the batch's, that the interface leaves open."""


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up found: the sizes that ran, in rows."""

    sizes: tuple[int, ...]


def warm_up(runtime: Runtime, latency: LatencyModel) -> WarmUp:
    """Run the model at batch sizes 1, 2, 4, ... up to its limit.

    Raises:
        ModelLoadError: if it fails at one of them. A model with open dimensions beside the batch's
            may well refuse the sizes that are invented for them: that is no failure.
    """
    interface = runtime.interface
    batches = interface.max_batch_size > 0
    guessed = any(-1 in spec.shape[1 if batches else 0 :] for spec in interface.inputs)
    done: list[int] = []
    for rows in _sizes(interface, runtime.static_rows):
        request = _request(interface, rows)
        if request is None:
            break
        for _ in range(RUNS_PER_SIZE):
            outcome = run_batch(runtime, [request])
            if not isinstance(outcome, Completed):
                if guessed:
                    return WarmUp(tuple(done))
                raise ModelLoadError(f"the model failed its warm-up with {rows} row(s)")
        latency.observe(bucket_of(request, batches=batches), rows, outcome.infer_s)
        done.append(rows)
    return WarmUp(tuple(done))


def _sizes(interface: ModelInterface, static_rows: int | None) -> list[int]:
    limit = interface.max_batch_size
    if limit == 0:
        return [1]
    if static_rows is not None:
        return [static_rows]
    powers = [1 << power for power in range(limit.bit_length()) if 1 << power < limit]
    return [*powers, limit]


def _request(interface: ModelInterface, rows: int) -> Request | None:
    tensors = [_zeros(spec, rows, interface.max_batch_size > 0) for spec in interface.inputs]
    if any(tensor is None for tensor in tensors):
        return None
    return Request(0, 0, tuple([tensor for tensor in tensors if tensor is not None]))


def _zeros(spec: TensorSpec, rows: int, batches: bool) -> Tensor | None:
    shape = tuple(FREE_SIZE if size == -1 else size for size in spec.shape)
    if batches:
        shape = (rows, *shape[1:])
    count = math.prod(shape)
    if spec.datatype == "BYTES":
        return Tensor(spec.name, spec.datatype, shape, encode_bytes_elements([b""] * count))
    dtype = NUMPY_OF[spec.datatype]
    if count * dtype.itemsize > TENSOR_BYTES_MAX:
        return None
    return Tensor(spec.name, spec.datatype, shape, np.zeros(count, dtype).tobytes())
