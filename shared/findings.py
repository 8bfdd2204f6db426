"""What the first load of a revision found out about batching, for every later load of it.

A finding belongs to a revision, in an environment (Python and packages), on a device: elsewhere the
same model may compute otherwise. It is kept in the store and beside the artifacts, so that only
one load pays for the trial. What an execution finds out later only ever lowers it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from shared.deployment import ModelInterface


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Finding(_Document):
    """What a model is, as its runtime and its trial say.

    Attributes:
        interface: what it takes and gives; `max_batch_size` is 0 if it is not batched.
        static_rows: the one batch size that it takes, or None if it takes any. Where that is 1, a
            request of several rows is executed row by row.
        merges: whether requests may share an execution.
        tried: names of the inputs that the rows of a trial had, for each set of them that was shown
            to be batched rightly. Requests with other inputs, or with parameters that the model
            knows, share no execution. None: those may too, on the operator's word.
        reason: for the operator: why requests do not share executions, and what to set; empty if
            they do.
        shape: name, datatype and inner shape (without the batch dimension) of each input that was
            timed.
        timings: rows of an execution of that shape, and how long it took, in seconds.
    """

    interface: ModelInterface
    static_rows: int | None = None
    merges: bool = False
    tried: tuple[tuple[str, ...], ...] | None = None
    reason: str = ""
    shape: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    timings: tuple[tuple[int, float], ...] = ()

    @property
    def rows_merged(self) -> int:
        """Most rows that requests may put into one execution together; 0: they share none."""
        return self.interface.max_batch_size if self.merges else 0

    def is_lower_than(self, other: Finding) -> bool:
        """Whether it allows less than another one of the same revision."""
        ours = (self.rows_merged, self.interface.max_batch_size)
        return ours < (other.rows_merged, other.interface.max_batch_size)
