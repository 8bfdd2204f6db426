"""What the first load of a revision found out about batching, for every later load of it.

A finding belongs to a revision, in an environment (Python and packages), on a device: elsewhere the
same model may compute otherwise. It is kept in the store and beside the artifacts, so that only
one load pays for the trial. What an execution finds out later only ever lowers it, and all replicas
of the revision there take that over.

What may well not recur (`Finding.chance`) holds for the replica alone that met it: it is kept
nowhere, and the next load tries again.

Of two findings `lower_of` makes one. The order in which they come does not matter, nor how often
one does, so that all who hear of the same findings hold the same one in the end.
"""

from __future__ import annotations

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.document import Document

Tried = tuple[tuple[str, ...], ...] | None
"""Sets of names of inputs; None: whichever."""


class Finding(Document):
    """What a model is, as its runtime and its trial say.

    Attributes:
        interface: what it takes and gives; `max_batch_size` is 0 if it is not batched.
        static_rows: the one batch size that it takes, or None if it takes any. Where that is 1, a
            request of several rows is executed row by row.
        merges: whether requests may share an execution.
        rows_together: most rows in an execution that requests share, where memory ran out beyond;
            None: `max_batch_size`. A request alone may have more.
        chance: it was made under conditions that may well not recur, so it is not to be kept.
        tried: names of the inputs that the rows of a trial had, for each set of them that was shown
            to be batched rightly. Requests with other inputs, or with parameters that the model
            knows, share no execution. None: those may too, on the operator's word.
        reason: for the operator: why requests do not share executions, or only small ones, and
            what to set; empty if there is nothing to say.
        shape: name, datatype and inner shape (without the batch dimension) of each input that was
            timed.
        timings: rows of an execution of that shape, and how long it took, in seconds.
    """

    interface: ModelInterface
    static_rows: int | None = None
    merges: bool = False
    rows_together: int | None = None
    chance: bool = False
    tried: Tried = None
    reason: str = ""
    shape: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    timings: tuple[tuple[int, float], ...] = ()

    @property
    def rows_merged(self) -> int:
        """Most rows that requests may put into one execution together; 0: they share none."""
        most = self.interface.max_batch_size
        if not self.merges:
            return 0
        return most if self.rows_together is None else min(most, self.rows_together)

    @property
    def announced(self) -> ModelInterface:
        """The interface as gateways are told it: with the inputs whose rows may be cut."""
        return self.interface.model_copy(update={"row_inputs": self.tried})

    def is_lower_than(self, other: Finding) -> bool:
        """Whether it allows less than another one of the same revision."""
        ours = (self.rows_merged, self.interface.max_batch_size)
        return ours < (other.rows_merged, other.interface.max_batch_size)


def lower_of(one: Finding, other: Finding) -> Finding:
    """What holds where both are known of the same revision: neither bound is above either's.

    It is the one by which fewer rows are merged, with the smaller bound of a request's rows, and
    with what both have tried.
    """
    lower = min(one, other, key=_order)
    rows = min(one.interface.max_batch_size, other.interface.max_batch_size)
    if lower.interface.max_batch_size != rows:
        interface = lower.interface.model_copy(update={"max_batch_size": rows})
        lower = lower.model_copy(update={"interface": interface})
    tried = _in_both(one.tried, other.tried)
    return lower if lower.tried == tried else lower.model_copy(update={"tried": tried})


def _in_both(one: Tried, other: Tried) -> Tried:
    """The sets of inputs that both have; None is all there are."""
    if one is None or other is None:
        return other if one is None else one
    if one == other:
        return one
    sets = [{tuple(sorted(names)) for names in each} for each in (one, other)]
    return tuple(sorted(sets[0] & sets[1]))


def _order(finding: Finding) -> tuple[int, bool, str]:
    """Of those that merge as many rows one that is not batched is first; the rest is arbitrary.

    It must not depend on a request's rows and on what was tried, which `lower_of` changes.
    """
    content = finding.model_dump_json(exclude={"interface": {"max_batch_size"}, "tried": True})
    return (finding.rows_merged, finding.interface.max_batch_size > 0, content)
