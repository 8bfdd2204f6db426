"""Keeps what becomes of each request while a load runs; pure, and cheap enough for that.

A request is a ticket, a number in the order of intended times. It is begun once, when the
generator gets to it, and ended once; what has not ended when the load is over is `unanswered`.
"""

from __future__ import annotations

import numpy as np

from load_tests.generator.load_plan import OK, KeptAnswer, Outcomes

UNANSWERED = "unanswered"
PENDING = -1

KEPT_BYTES_MAX = 512 * 2**20
"""Answers that are kept for verification; a run that brings more is too long for that."""

KEPT_HEADERS = ("inference-header-content-length",)
"""Without it a binary answer cannot be read; others, such as times and ids, are always new."""


class TooManyAnswersError(Exception):
    """More bodies than may be kept."""


class Tally:
    """All requests of one load.

    Args:
        requests: how many different ones there are; tickets ask for them in turn.
    """

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._intended: list[float] = []
        self._begun: list[float] = []
        self._ended: list[float] = []
        self._kind: list[int] = []
        self._answer: list[int] = []
        self._kinds = {OK: 0}
        self._answers: dict[tuple[int, bytes], int] = {}
        self._kept: list[KeptAnswer] = []
        self._kept_bytes = 0
        self.open = 0

    def begin(self, intended: float, now: float) -> int:
        """The generator got to a request; returns its ticket."""
        self._intended.append(intended)
        self._begun.append(now)
        self._ended.append(now)
        self._kind.append(PENDING)
        self._answer.append(-1)
        self.open += 1
        return len(self._intended) - 1

    def request_of(self, ticket: int) -> int:
        """Which request a ticket sends."""
        return ticket % self._requests

    def end(self, ticket: int, kind: str, now: float) -> None:
        """Its fate is known."""
        if self._kind[ticket] != PENDING:
            raise AssertionError(f"ticket {ticket} ended twice")
        self._kind[ticket] = self._kinds.setdefault(kind, len(self._kinds))
        self._ended[ticket] = now
        self.open -= 1

    def keep(self, ticket: int, headers: dict[str, str], body: bytes) -> None:
        """Remember an answer's body, unless the same one came to the same request before."""
        key = (self.request_of(ticket), body)
        index = self._answers.setdefault(key, len(self._kept))
        if index == len(self._kept):
            self._kept_bytes += len(body)
            if self._kept_bytes > KEPT_BYTES_MAX:
                del self._answers[key]
                return
            kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
            self._kept.append(KeptAnswer(key[0], kept, body))
        self._answer[ticket] = index

    def close(self, began_at: float, duration_s: float, now: float) -> Outcomes:
        """The load is over, which began at a time of the clock of all times here.

        Raises:
            TooManyAnswersError: if not all answers could be kept, so that not all can be verified.
        """
        if self._kept_bytes > KEPT_BYTES_MAX:
            raise TooManyAnswersError(f"more than {KEPT_BYTES_MAX} bytes of answers: run less long")
        for ticket, kind in enumerate(self._kind):
            if kind == PENDING:
                self.end(ticket, UNANSWERED, now)
        intended = np.array(self._intended, np.float64)
        return Outcomes(
            began_at=began_at,
            duration_s=duration_s,
            intended_s=intended - began_at,
            lag_s=np.array(self._begun, np.float64) - intended,
            ended_s=np.array(self._ended, np.float64) - began_at,
            kind=np.array(self._kind, np.int64),
            request=np.arange(len(intended), dtype=np.int64) % self._requests,
            answer=np.array(self._answer, np.int64),
            kinds=list(self._kinds),
            answers=self._kept,
        )
