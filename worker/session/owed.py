"""What a replica owes an answer, and how that ends other than by an execution. Pure.

Theory. What was accepted is owed until it is *settled*, which happens once: with its answer, with a
refusal after all, or when it leaves the queue because nobody wants it any more. What runs while its
caller goes away is `unwanted` and still owed: it is settled when its execution has ended, and
nothing is said. Of the suspects among the calls, one is held at a time.

Used by `penstock.worker.session.session`, `penstock.worker.session.endings` and
`penstock.worker.session.suspect_turns`.
"""

from __future__ import annotations

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Failure, Final, Nack, NackReason
from penstock.worker.jobs.queue import JobItem
from penstock.worker.session.batching import Item, Key
from penstock.worker.session.commands import Command, Send
from penstock.worker.session.counters import Counters


class Owed:
    """See the module's docstring.

    Attributes:
        items: what is owed, by key; who accepts something puts it there.
        suspect: the call among them that may have killed a replica.
    """

    def __init__(self, counters: Counters) -> None:
        self.items: dict[Key, Item] = {}
        self.suspect: Key | None = None
        self._counters = counters

    def __repr__(self) -> str:
        return f"<Owed {len(self.items)} items>"

    def to(self, link: str) -> list[Item]:
        """All that is owed over a link."""
        return [item for key, item in self.items.items() if key[0] == link]

    def settle(self, item: Item) -> None:
        """It is answered, refused, or was cancelled: that is the end of it."""
        del self.items[item.key]
        if item.unwanted:
            self._counters.cancelled += 1
        if item.suspect and item.key == self.suspect:
            self.suspect = None

    def answer(self, item: Item, final: Final) -> list[Command]:
        """Settle it, and answer unless nobody wants that."""
        self.settle(item)
        return [] if item.unwanted else [Send(item.key[0], final)]

    def refuse(self, item: Item, reason: NackReason) -> list[Command]:
        """Settle something that was accepted, and is to be executed elsewhere."""
        self.settle(item)
        return [Send(item.key[0], Nack(item.key[1], reason))]

    def expired(self, item: Item, now: float) -> list[Command]:
        """It did not begin in time."""
        if item.start_by == item.deadline:
            return self.too_late(item, now)
        message = "it was not begun within the time that it may wait"
        return self._never_run(item, Failure(ErrorCode.QUEUE_TIMEOUT, message), now)

    def too_late(self, item: Item, now: float) -> list[Command]:
        """It cannot end in time."""
        failure = Failure(ErrorCode.DEADLINE_EXCEEDED, "the deadline passed in the queue")
        return self._never_run(item, failure, now)

    def still_wanted(
        self, items: tuple[Item, ...], now: float, commands: list[Command]
    ) -> tuple[Item, ...]:
        """Of a batch that is to run again: what somebody waits for, and what is still in time."""
        wanted = []
        for item in items:
            if item.unwanted:
                self.settle(item)
            elif isinstance(item, JobItem) and item.gone:
                commands += self.refuse(item, NackReason.DRAINING)  # not again
            elif item.deadline <= now:
                commands += self.too_late(item, now)
            else:
                wanted.append(item)
        return tuple(wanted)

    def _never_run(self, item: Item, failure: Failure, now: float) -> list[Command]:
        self._counters.expired += 1
        queue_us = int((now - item.enqueued) * 1e6)
        return self.answer(item, Final(item.payload.attempt_id, (), failure, queue_us))
