"""Whose turn it is to run alone, because it was in a replica that died. Pure.

Theory. A suspect is not executed before its gateway has noted that its turn has come, so that a
second death names the culprit beyond doubt. It is told `SuspectTurn` when the runtime is free for
it, and the runtime waits for its word to `Proceed`; if that does not come soon, the suspect is
refused and others get their turn. While it runs, other gateways know that nothing else does
(`Alone`, of `penstock.worker.session.session`).

Used by `penstock.worker.session.session`, for calls; a job that is a suspect has nobody to ask.
"""

from __future__ import annotations

from penstock.shared.wire.messages import NackReason, SuspectTurn
from penstock.worker.session.batching import Item, Key
from penstock.worker.session.commands import Command, Send
from penstock.worker.session.owed import Owed

SUSPECT_TURN_S = 0.25
"""How long the runtime waits for a gateway to let a suspect proceed; then others get their turn."""


class SuspectTurns:
    """See the module's docstring.

    Attributes:
        item: whose turn it is, while the runtime waits for word; None: nobody's.
    """

    def __init__(self, owed: Owed) -> None:
        self.item: Item | None = None
        self._owed = owed
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<SuspectTurns of {self.item.key if self.item else None}>"

    def begin(self, item: Item, now: float) -> list[Command]:
        """The runtime is free for a suspect."""
        self.item, self._until = item, now + SUSPECT_TURN_S
        return [Send(item.key[0], SuspectTurn(item.key[1]))]

    def proceed(self, key: Key, now: float) -> Item | None:
        """The gateway knows that this suspect is being executed: what is to run, if that is so."""
        item = self.item
        if item is None or item.key != key or item.start_by <= now:
            return None
        self.item = None
        return item

    def drop(self, item: Item) -> bool:
        """Nobody wants it any more; False if it is not its turn."""
        if self.item is not item:
            return False
        self.item = None
        return True

    def ends_at(self) -> float:
        """When the turn is over at the latest; infinite if it is nobody's."""
        item = self.item
        return float("inf") if item is None else min(self._until, item.start_by)

    def missed(self, now: float) -> list[Command]:
        """The turn is over, and no word has come."""
        item = self.item
        assert item is not None
        self.item = None
        if item.start_by <= now:
            return self._owed.expired(item, now)
        return self._owed.refuse(item, NackReason.SUSPECT_BUSY)
