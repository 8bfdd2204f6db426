"""What the job store is owed, sent again and again until it has answered.

All that is due leaves in one pipeline. While the store is away, what it is owed waits here; a call
that is sent twice happens once. One that it refuses, being there, is given up after `ERRORS_MAX`
times, unless it ends a lease that the store goes on keeping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.shared.contracts.errors import StateStoreError, StoreFullError
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.process.outage import Outage
from penstock.shared.process.telemetry import get_logger
from penstock.worker.job_port.leases import Leases

RETRY_S = 0.1
RETRY_S_MAX = 2.0
"""Waits between tries while the store is away, doubling from the first to the last."""

ERRORS_MAX = 20
"""Times that the store, being there, may refuse the same call. What ends a lease is sent for as
long as the store answers its heartbeats."""

log = get_logger("jobs")


class BlockingStore(Protocol):
    """Of `penstock.shared.jobs.blocking_store.BlockingJobStore`, what is used here."""

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """For each call its answer, or its own error; raises StateStoreError without the store."""
        ...

    def durability(self) -> Durability:
        """What the server's acknowledgements are worth; raises StateStoreError without it."""
        ...


@dataclass
class OwedCall:
    """A call that the store has not answered, and what is to be done with its answer.

    Attributes:
        then: takes the answer; None if the call was given up.
        if_full: what is to be done instead where the store has no room.
        ends: the lease that it ends.
        errors: how often the store was there, and could not carry it out.
        sent: whether it may have reached the store.
    """

    call: Call[Any]
    then: Callable[[Any], None]
    if_full: Callable[[], None] | None = None
    ends: int | None = None
    errors: int = 0
    sent: bool = False

    @property
    def is_lease(self) -> bool:
        """Whether it asks for more jobs."""
        return self.call.script == "lease"


class StoreCalls:
    """See the module's docstring. One thread uses it.

    Args:
        store: a connection to it.
        leases: those that calls may end.
        lease_s: how long a lease lasts without a heartbeat.
    """

    def __init__(self, store: BlockingStore, leases: Leases, lease_s: float) -> None:
        self._store = store
        self._leases = leases
        self._lease_s = lease_s
        self._owed: list[OwedCall] = []
        self._durability: Durability | None = None
        self._told: Durability | None = None
        self.retry_at = 0.0
        self._retry_s = RETRY_S
        self._outage = Outage(log, "the job store does not answer", "the job store answers again")

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, owed: OwedCall) -> None:
        """Something to be sent, after what was owed before."""
        self._owed.append(owed)

    def give_up_leasing(self, *, also_sent: bool) -> None:
        """Ask for no more jobs.

        Args:
            also_sent: forget also what may have reached the store: its leases end by themselves.
        """
        self._owed = [
            each for each in self._owed if not each.is_lease or (each.sent and not also_sent)
        ]

    def send(self, beats: Sequence[OwedCall]) -> None:
        """Send all that is owed, and heartbeats, which the next one replaces; heed the answers."""
        owed, self._owed = self._owed, []
        if not owed and not beats:
            return
        try:
            answers = self._ask([each.call for each in (*owed, *beats)])
        except StateStoreError as error:
            for each in owed:
                each.sent = True
            self._owed = owed
            self._durability = None  # the next connection may lead to another server
            self._back_off()
            self._outage.failed(held=len(self._leases), error=error.message)
            return
        failed = False
        for at, (each, answer) in enumerate(zip((*owed, *beats), answers, strict=True)):
            if isinstance(answer, StoreFullError) and each.if_full is not None:
                each.if_full()
            elif isinstance(answer, Exception):
                failed = True
                self._refused(each, answer, keep=at < len(owed))
            else:
                each.then(answer)
        if failed:
            self._back_off()
        else:
            self._retry_s = RETRY_S
            self._outage.worked(held=len(self._leases))

    def _ask(self, wanted: Sequence[Call[Any]]) -> list[Any]:
        """Answers, in order: in one go, unless some take long that others need not wait for."""
        if self._durability is None:
            self._durability = self._store.durability()
            self.tell_loss(self._durability)
        if self._durability is not Durability.ASKED or len({call.durable for call in wanted}) < 2:
            return self._store.run_many(wanted)
        answers: dict[int, Any] = {}
        for durable in (False, True):
            places = [at for at, call in enumerate(wanted) if call.durable is durable]
            part = self._store.run_many([wanted[at] for at in places])
            answers.update(zip(places, part, strict=True))
        return [answers[at] for at in range(len(wanted))]

    def tell_loss(self, durability: Durability) -> None:
        """Say that results may be lost, once, and again where it is another store."""
        if durability is not self._told and not durability.is_sure:
            log.warning("job store", durability=durability.value, meaning=durability.meaning)
        self._told = durability

    def _refused(self, owed: OwedCall, error: Exception, *, keep: bool) -> None:
        """The store is there, and did not carry this out."""
        owed.errors += 1
        goes_on = owed.errors < ERRORS_MAX or self._is_kept(owed.ends)
        if keep and isinstance(error, StateStoreError) and goes_on:
            self._owed.append(owed)
            return
        log.warning("the job store refused a call", call=owed.call.script, error=str(error))
        if owed.ends is not None:
            self._leases.drop(owed.ends)  # it ends by itself
        if keep:
            owed.then(None)

    def _is_kept(self, number: int | None) -> bool:
        """Whether the store answers a lease's heartbeats."""
        if number is None or number not in self._leases:
            return False
        return time.monotonic() - self._leases[number].next_beat < self._lease_s

    def _back_off(self) -> None:
        self.retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
