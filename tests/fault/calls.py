"""An open loop of calls on a service in this process, which notes all that each call is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from load_tests.generator.arrivals import poisson_arrivals
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.service import InferenceService
from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from tests.support.data_plane import rows

LATE_S_MAX = 0.5
"""By how much an answer may miss its deadline: what a turn of the event loop may take where many
processes share few processors."""


@dataclass
class Sent:
    """One call.

    Attributes:
        at: when it was submitted.
        outcomes: all that it was told, and when; a call is told once.
    """

    number: int
    at: float
    timeout_s: float
    outcomes: list[tuple[float, CallOutcome]] = field(default_factory=list)

    @property
    def code(self) -> ErrorCode | None:
        """Why it failed; None if it was answered."""
        outcome = self.outcomes[0][1]
        return outcome.code if isinstance(outcome, PenstockError) else None

    def check(self, scale: float) -> None:
        """It resolved once, by its deadline, and if it was answered then rightly."""
        assert len(self.outcomes) == 1, self
        ((resolved_at, outcome),) = self.outcomes
        assert resolved_at - self.at <= self.timeout_s + LATE_S_MAX, self
        if not isinstance(outcome, PenstockError):
            answer = array_from_tensor(outcome.outputs[0])
            assert answer.tolist() == (rows(self.number) * scale).tolist(), self


class OpenCalls:
    """Calls at a fixed rate, whatever becomes of them.

    Args:
        seed: of the times at which they are sent.
    """

    def __init__(self, service: InferenceService, rate: float, timeout_s: float, seed: int) -> None:
        self.sent: list[Sent] = []
        self._service = service
        self._rate = rate
        self._timeout_s = timeout_s
        self._seed = seed
        self._stopped = False

    async def run(self, duration_s: float) -> None:
        """Send for so long at most, and wait until the last call's deadline has passed."""
        began = time.monotonic()
        for offset in poisson_arrivals(self._rate, duration_s, self._seed).tolist():
            await asyncio.sleep(max(began + offset - time.monotonic(), 0.0))
            if self._stopped:
                break
            self._submit()
        await asyncio.sleep(self._timeout_s + LATE_S_MAX)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    def between(self, first: float, last: float) -> Sequence[Sent]:
        """Calls that were sent from one time to another."""
        return [call for call in self.sent if first <= call.at < last]

    def _submit(self) -> None:
        sent = Sent(len(self.sent), time.monotonic(), self._timeout_s)
        self.sent.append(sent)
        inputs = (tensor_from_array("x", rows(sent.number)),)
        call = InferenceCall("m", None, inputs, timeout_s=self._timeout_s)
        try:
            self._service.submit(call, partial(_note, sent))
        except PenstockError as error:
            _note(sent, error)


def _note(sent: Sent, outcome: CallOutcome) -> None:
    sent.outcomes.append((time.monotonic(), outcome))
