"""Which replica gets an attempt: the better of two picked at random.

"Better" is the earlier estimated completion: rows in front of the new one, times the replica's
recent time per row. Two random choices are enough to keep the longest queue short (Mitzenmacher,
"The power of two choices in randomized load balancing", 2001), and unlike "the best of all" they
do not send every gateway's calls to the same replica between two reports.

If one has missed some probes and the other has not, or holds some attempts more that take longer
than most, it is the worse one in any case: what it told of itself may not be true any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penstock.gateway.dispatch.replicas import Replica

OVERDUE_COUNTS = 2
"""So many overdue attempts more than the other has: of single ones, every twentieth call is one."""


class Rng(Protocol):
    """A source of chance; `random.Random` is one."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to `stop` - 1."""
        ...

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


def choose(candidates: Sequence[Replica], rng: Rng, heard_since: float) -> Replica | None:
    """One of the candidates; None if there are none.

    Args:
        heard_since: who was not heard since then may have stopped.
    """
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    first = rng.randrange(len(candidates))
    second = rng.randrange(len(candidates) - 1)
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    if (one.heard_at < heard_since) != (other.heard_at < heard_since):
        return one if one.heard_at > other.heard_at else other
    if abs(one.overdue - other.overdue) >= OVERDUE_COUNTS:
        return one if one.overdue < other.overdue else other
    return one if one.backlog_us <= other.backlog_us else other
