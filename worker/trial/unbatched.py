"""A model's finding once it is known not to batch. Pure.

Each request is then one execution, passed in and out whole. Where the graph has one batch size,
nothing may be padded any more, so that requests must have just that many rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.tensor_spec import TensorSpec


def unbatched(finding: Finding, reason: str) -> Finding:
    """The finding without batching.

    Args:
        finding: as it was.
        reason: for the operator; empty if there is nothing to say about it.
    """
    interface = finding.interface
    inputs = interface.inputs
    if finding.static_rows is not None:
        inputs = _fixed(inputs, finding.static_rows)
    return finding.model_copy(
        update={
            "interface": interface.model_copy(update={"inputs": inputs, "max_batch_size": 0}),
            "static_rows": None,
            "merges": False,
            "rows_together": None,
            "chance": False,
            "reason": f"not batched: {reason}" if reason else "",
            "shape": (),
            "timings": (),
        }
    )


def _fixed(specs: Sequence[TensorSpec], rows: int) -> tuple[TensorSpec, ...]:
    return tuple(spec.model_copy(update={"shape": (rows, *spec.shape[1:])}) for spec in specs)
