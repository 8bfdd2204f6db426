"""Which requests may share a batch: those with equal buckets.

Previous stop of a request: `worker.session`. Next: `worker.batching`.
"""

from __future__ import annotations

from collections.abc import Hashable

from shared.messages import Request
from shared.tensors import Tensor


class Buckets:
    """Finds requests' buckets; most are of the same form as the one before, and so is the bucket.

    Args:
        batches: whether the model has a batch dimension, which then does not count.
    """

    def __init__(self, *, batches: bool) -> None:
        self._batches = batches
        self._inputs: tuple[Tensor, ...] = ()
        self._bucket: Hashable = bucket_of(Request(0, 0, ()), batches=batches)

    def of(self, request: Request) -> Hashable:
        """The request's bucket, as `bucket_of` has it."""
        if request.parameters:
            return bucket_of(request, batches=self._batches)
        if not _same_form(request.inputs, self._inputs):
            self._inputs = request.inputs
            self._bucket = bucket_of(request, batches=self._batches)
        return self._bucket


def bucket_of(request: Request, *, batches: bool) -> Hashable:
    """Requests with equal buckets may share a batch: nothing that a model could tell apart differs.

    Args:
        batches: whether the model has a batch dimension, which then does not count.
    """
    lead = 1 if batches else 0
    shapes = tuple([(t.name, t.datatype, t.shape[lead:]) for t in request.inputs])
    # Python holds 1, 1.0 and True for equal; a model need not.
    parameters = tuple([(name, repr(value)) for name, value in request.parameters])
    return (shapes, parameters)


def _same_form(inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    if len(inputs) != len(others):
        return False
    for one, other in zip(inputs, others):  # noqa: B905 - strict costs as much as the rest
        if one.shape != other.shape or one.name != other.name or one.datatype != other.datatype:
            return False
    return True
