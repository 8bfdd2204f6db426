"""When a child that ended is started again.

Theory: a child that ran for a while and ended met something rare, and is wanted back at once; one
that ends right after each start will do so again, and must not eat the machine. So the delay
doubles with each end that came soon after its start, up to a ceiling, and falls back to the first
delay after a life of `stable_after_s`. There is no giving up: what a child needs (a disk, a
network) may come back at any time.

Invariants: the delay is never below `first_s` nor above `ceiling_s`, and never shrinks while lives
are short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """How long to wait before the next start, given how the last lives went."""

    first_s: float = 0.2
    ceiling_s: float = 15.0
    stable_after_s: float = 20.0

    def short_lives(self, before: int, lived_s: float) -> int:
        """Short lives in a row, now that one more life ended after `lived_s`."""
        return 0 if lived_s >= self.stable_after_s else before + 1

    def delay_s(self, short_lives: int) -> float:
        """How long to wait after that many short lives in a row."""
        doublings = min(max(short_lives - 1, 0), 30)
        return float(min(self.first_s * 2**doublings, self.ceiling_s))
