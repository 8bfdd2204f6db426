"""An inference request of the Open Inference Protocol that has been read."""

from __future__ import annotations

from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Tensor


@record
class ParsedInfer:
    """A request that fits the model.

    Attributes:
        id: to be echoed, or None.
        inputs: in the interface's order.
        outputs: names asked for, in that order; empty means all.
        binary_outputs: of those, the ones wanted as binary data.
        binary_default: whether outputs that were not asked for by name are wanted as binary data.
        parameters: for the model.
        priority: 1 (first) to 9 (last).
        timeout_s: what the request allows, or None.
    """

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    binary_outputs: frozenset[str]
    binary_default: bool
    parameters: Parameters
    priority: int
    timeout_s: float | None

    def wants_binary(self, output: str) -> bool:
        """Whether an output is to be answered as binary data."""
        return output in self.binary_outputs if self.outputs else self.binary_default
