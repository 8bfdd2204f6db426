"""What happened to models: who switched what, when and why, with the failures (pure).

Two documents in the state store. `HistoryEvent`s are read by people (`penstock history`).
`ModelPast` is what the next event is told apart from, and the evidence of versions that nobody
asks for any more: whether they ever served, and how they last failed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from pydantic import Field

from penstock.shared.contracts.document import Document

EVENTS_MAX = 200
"""Most events that are kept of a model: years of swaps by hand, a month of one swap a day with all
that goes with it; some 60 kB."""

HISTORY_TTL_S = 365 * 86_400.0
"""How long a model's events are kept after the last: a model that was deleted has a history too."""

VERSIONS_MAX = 100
"""Most versions of a model whose past is kept; of others, the tags in the registry are left."""


class EventKind(StrEnum):
    """What can happen to a model."""

    WANTED = "wanted"  # a version was named stable
    SWITCHED = "switched"  # another revision serves, or none does
    FAILED = "failed"
    RECOVERED = "recovered"  # what failed serves
    RETIRED = "retired"  # it served, and no longer runs
    WITHDRAWN = "withdrawn"  # nobody asks for it any more, and it never served


class HistoryEvent(Document):
    """Something that happened.

    Attributes:
        at: wall-clock time, in seconds.
        version: what it happened to; of a switch, what serves now, or empty: nothing does.
        before: of a switch, the version that served before; empty if none did.
        who: the tag, alias or command that asked for it, as far as that is known.
        why: the reason, on one line.
        registered_by: the user who registered the version, where the registry says so.
        registry_updated_at: when the registry last changed the version, if it says so: wall-clock
            time, in seconds. MLflow counts no edits of tags and aliases.
    """

    at: float
    kind: EventKind
    model: str
    version: str
    before: str = ""
    revision: str = ""
    who: str = ""
    why: str = ""
    registered_by: str = ""
    registry_updated_at: float | None = None


class VersionPast(Document):
    """What is known of a version.

    Attributes:
        served: whether it ever answered calls.
        failed_at: wall-clock time of its last failure, in seconds; None: it never failed.
        failure: the reason of that.
        mark: tells that failure from the next one.
        failing: it failed, and has not served without fault since.
        failures_told: events of failures since it was asked for, or last served without fault.
        over: that it is retired or withdrawn was told.
        changed_at: wall-clock time at which any of this changed.
    """

    served: bool = False
    failed_at: float | None = None
    failure: str = ""
    mark: str = ""
    failing: bool = False
    failures_told: int = 0
    over: bool = False
    changed_at: float = 0.0

    @property
    def last_failure(self) -> str:
        """When and why it last failed, in a sentence; empty if it never did."""
        return "" if self.failed_at is None else f"failed {utc(self.failed_at)}: {self.failure}"


class ModelPast(Document):
    """What is known of a model.

    Attributes:
        wanted: the version that was last asked for, or empty.
        by: what asked for it.
        serving: the version that serves, or empty.
        revision: its revision.
        versions: by version.
    """

    wanted: str = ""
    by: str = ""
    serving: str = ""
    revision: str = ""
    versions: dict[str, VersionPast] = Field(default_factory=dict)


def utc(wall: float) -> str:
    """A wall-clock time as `2026-11-29T18:44:15Z`."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
