"""Which requests may share a batch: those with equal buckets, if a trial had requests like them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import Tensor, is_scoring


class Buckets:
    """Finds requests' buckets; most are of the same form as the one before, and so is the bucket.

    Args:
        batches: whether the model has a batch dimension, which then does not count.
        parameters: names of those that the model knows.
        tried: sets of inputs, as `penstock.shared.contracts.findings.Finding` has them.
    """

    def __init__(
        self,
        *,
        batches: bool,
        parameters: Sequence[str] = (),
        tried: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self._batches = batches
        self._parameters = frozenset(parameters)
        self._tried = None if tried is None else frozenset([frozenset(names) for names in tried])
        self._inputs: tuple[Tensor, ...] = ()
        self._last = self._find(Request(0, 0, ()))

    def of(self, request: Request) -> tuple[Hashable, bool]:
        """The request's bucket, as `bucket_of` has it, and whether it must run alone all the same.

        It must if no trial had one like it: with these inputs, and without parameters; or if its
        body is for the model to read, since nobody knows what is in it.
        """
        if request.parameters:
            return self._find(request)
        if not _same_form(request.inputs, self._inputs):
            self._inputs = request.inputs
            self._last = self._find(request)
        return self._last

    def _find(self, request: Request) -> tuple[Hashable, bool]:
        return bucket_of(request, batches=self._batches), self._is_untried(request)

    def _is_untried(self, request: Request) -> bool:
        if is_scoring(request.inputs):
            return True
        if self._tried is None:
            return False
        if not self._parameters.isdisjoint([name for name, _ in request.parameters]):
            return True
        return frozenset([tensor.name for tensor in request.inputs]) not in self._tried


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
