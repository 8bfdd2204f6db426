"""A model's finding once memory ran out, and whether the next load is to know of it. Pure.

Theory. The memory of a machine belongs to all that runs there: where it runs out, a neighbour is
the cause more often than the model, and it may be gone by the next load. The memory of a GPU is
shared out by the sizes of those who are placed there: what did not fit once will not fit the next
replica either, so that is to be kept.

That holds for executions whose size is the model's own. Where rows have no fixed size, what a
client sent was too large, and one such request must not have all others run in small batches for
as long as findings are kept. Nor does a single row say anything of batches: it ran when the model
was loaded.

Only how many rows share an execution is lowered. What a client may send in one request stays as it
was announced, and fails alone if memory does not suffice for it.
"""

from __future__ import annotations

from penstock.shared.contracts.findings import Finding
from penstock.worker.trial.invented import is_guess


def by_chance(device: str) -> bool:
    """Whether memory that ran out there may well suffice at the next load.

    Args:
        device: `cpu` or `cuda:N`.
    """
    return device == "cpu"


def short_of_memory(finding: Finding, rows: int, rows_together: int, device: str) -> Finding:
    """The finding once an execution of so many rows ran out of memory.

    Args:
        finding: as it was.
        rows_together: most rows of an execution that requests share from now on.
        device: as in `by_chance`.
    """
    sizes_differ = is_guess(finding.interface.inputs, batches=True)
    chance = finding.chance or rows == 1 or sizes_differ or by_chance(device)
    reason = (
        f"requests share executions of at most {rows_together} rows: memory ran out at {rows} "
        f"(seen when it was called)"
    )
    if chance:
        reason += "; holds until this replica ends"
    return finding.model_copy(
        update={"rows_together": rows_together, "chance": chance, "reason": reason}
    )
