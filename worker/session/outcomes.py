"""What became of an execution, as far as that decides what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Failure
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Tensor

REFUSAL_CHARS_MAX = 1000
"""Of MLflow's reason for a refusal, which may repeat all that was sent."""


class FailureKind(StrEnum):
    """How an execution failed, as far as that changes what to do next."""

    INPUT = "input"  # the model or the runtime raised
    REFUSED = "refused"  # the request does not fit the model's signature, which MLflow enforces
    OUT_OF_MEMORY = "out_of_memory"
    MISFIT = "misfit"  # its outputs have other rows than went in, and cannot be divided
    FATAL = "fatal"  # the device or the process is of no more use


@record
class Completed:
    """An execution's outputs, per item and in the items' order, and its time in seconds.

    Attributes:
        copied_bytes: of tensors, on their way from messages into the batch and out of it.
        misfit: how the outputs of a request that ran alone, and are passed on whole, show that the
            model must not be batched; empty if they do not.
    """

    outputs: Sequence[tuple[Tensor, ...]]
    infer_s: float
    copied_bytes: int = 0
    misfit: str = ""


@record
class Failed:
    """An execution failed; the runtime's own words are for the operator, and not for callers, but
    for what it says of a request that it refuses.

    Attributes:
        told: what callers are told; empty: that it failed.
        cause: what was raised, in one line.
    """

    kind: FailureKind
    infer_s: float
    reason: str = ""
    told: str = ""
    cause: str = ""

    def failure(self, model: str, version: str) -> Failure:
        """What callers are told, of a request that failed alone."""
        name = f"model {model!r} version {version}"
        if self.kind is FailureKind.OUT_OF_MEMORY:
            message = f"{name} ran out of memory on this request alone"
            return Failure(ErrorCode.OUT_OF_MEMORY, message, self.cause)
        if self.kind is FailureKind.REFUSED:
            reason = " ".join(self.reason.split())[:REFUSAL_CHARS_MAX]
            return Failure(ErrorCode.INVALID_INPUT, f"{name} does not take this request: {reason}")
        told = self.told or "failed to execute this request"
        return Failure(ErrorCode.MODEL_ERROR, f"{name} {told}", self.cause)


Outcome: TypeAlias = Completed | Failed
