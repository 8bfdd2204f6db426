"""What an acknowledged write survives, as the server's configuration has it.

    always    a write is on the server's disk before it is answered
    asked     the same, since we ask for it after writing (WAITAOF)
    everysec  a write reaches the disk within about a second: a crash of the machine loses the last
              second or two. So may one of the server alone, since it acknowledges writes for up to
              two seconds that it has not handed to the kernel while that flushes others
    none      nothing is written as it comes; a crash loses what came since the last snapshot
    unknown   the server does not say, and cannot be asked to wait

None of them speaks of replicas: a failover may lose what had not reached them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Durability(StrEnum):
    """What an acknowledged write survives."""

    ALWAYS = "always"
    ASKED = "asked"
    EVERYSEC = "everysec"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def is_sure(self) -> bool:
        """Whether nothing that was answered is lost when the server, or its machine, crashes."""
        return self in (Durability.ALWAYS, Durability.ASKED)

    @property
    def meaning(self) -> str:
        """What a crash of the server does to jobs that were accepted, in words for people."""
        return _MEANINGS[self]


_MEANINGS: Mapping[Durability, str] = {
    Durability.ALWAYS: "a crash of the store loses nothing",
    Durability.ASKED: "a crash of the store loses nothing",
    Durability.EVERYSEC: "a crash of the store may lose the last two seconds of jobs",
    Durability.NONE: "a crash of the store loses jobs: it syncs no append-only file",
    Durability.UNKNOWN: "the store does not tell whether a crash of it loses jobs",
}


def durability_of(configuration: Mapping[str, str] | None, can_wait: bool) -> Durability:
    """What the server offers.

    Args:
        configuration: its `appendonly` and `appendfsync`, or None if it does not tell.
        can_wait: whether it answered a WAITAOF for its own disk.
    """
    if configuration is None:
        return Durability.ASKED if can_wait else Durability.UNKNOWN
    fsync = configuration.get("appendfsync", "no")
    if configuration.get("appendonly") != "yes" or fsync == "no":
        return Durability.NONE
    if fsync == "always":
        return Durability.ALWAYS
    return Durability.ASKED if can_wait else Durability.EVERYSEC
