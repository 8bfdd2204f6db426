"""What a registry is to us: models with versions, tags and aliases, and a place for a status.

`RegistrySource` is the seam. MLflow stands behind it (`mlflow_source`), or a folder
(`folder_source`); anything else that can name versions may too. What is seen at one poll is a
`Registry`, a plain value: all wishes are derived from it afresh at every poll, because tags and
aliases change without a trace in time stamps.

Next stop: `roles` and `tags` read wishes out of a `Registry`; `statuses` writes back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, TypeAlias

from penstock.shared.contracts.deployment import ArtifactSource
from penstock.shared.contracts.errors import ErrorCode, PenstockError

PREFIX = "penstock."
ROLE_TAG = "penstock.role"
STATUS_TAG = "penstock.status"
MESSAGE_TAG = "penstock.status_message"
OWNER_TAG = "penstock.owner"
OWN_TAGS = frozenset({STATUS_TAG, MESSAGE_TAG, OWNER_TAG})
"""Tags that we write ourselves; they are never a wish."""

MESSAGE_LENGTH_MAX = 500
"""Longest status message: a sentence or three, not a log."""


class Status(StrEnum):
    """What became of a version, in the operator's words."""

    LOADING = "loading"  # it is fetched, placed, started
    READY = "ready"  # loaded; gateways have yet to see it
    SERVING = "serving"
    DRAINING = "draining"
    RETIRED = "retired"  # not asked for any more; it served once
    WITHDRAWN = "withdrawn"  # not asked for any more; it never served
    FAILED = "failed"  # tried, and to be tried again
    SUPERSEDED = "superseded"  # another version of the same wish goes first
    INVALID = "invalid"  # asked for in a way that cannot be met without a change


OVER = frozenset({Status.RETIRED, Status.WITHDRAWN})
"""Statuses of what nobody asks for any more."""

VersionKey: TypeAlias = tuple[str, str]
"""A model's name and a version of it."""


@dataclass(frozen=True)
class ObservedVersion:
    """A version as the registry shows it.

    Attributes:
        source: where its artifacts are; the identity in it tells a re-created version apart.
        registered_by: the user who registered it; empty where the registry does not say.
        updated_at: when the registry last changed it, as wall-clock time in seconds, if it says so.
    """

    model: str
    version: str
    source: ArtifactSource
    tags: Mapping[str, str] = field(default_factory=dict)
    registered_by: str = ""
    updated_at: float | None = None


@dataclass(frozen=True)
class ObservedModel:
    """A registered model, with those versions that somebody or something named.

    Attributes:
        problem: why its wishes cannot be told now; what is deployed of it goes on.
        left_out: the filters of this system do not admit it: to us it is not there.
        default: the version that is stable because nobody named one, or empty.
    """

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[ObservedVersion, ...] = ()
    problem: str = ""
    left_out: bool = False
    default: str = ""

    def version(self, version: str) -> ObservedVersion | None:
        """The version of that number, or None if it was not seen."""
        return next((seen for seen in self.versions if seen.version == version), None)


Registry: TypeAlias = Mapping[str, ObservedModel]
"""All registered models by name."""


@dataclass(frozen=True)
class StatusUpdate:
    """A version's status, to be written for the operator.

    Attributes:
        gone: it serves though the registry has it no more, so that it can only be told elsewhere.
        owner: the system that writes it, to be written too; empty: the tag stays as it is.
    """

    model: str
    version: str
    status: Status
    message: str = ""
    gone: bool = False
    owner: str = ""


class RegistryError(PenstockError):
    """The registry could not be read or written."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)


class NoModelsError(RegistryError):
    """The registry has no model at all, though some are deployed: it may have lost them."""


class RegistrySource(Protocol):
    """A registry. Methods block, and are called from one thread at a time."""

    @property
    def place(self) -> str:
        """What is read or written at this moment, for who wonders where a call hangs."""
        ...

    @property
    def model_at(self) -> str:
        """The model that is looked at alone at this moment, so that only it may hang; or empty."""
        ...

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        """All models, with every version that is tagged or aliased, or that is in `known`.

        A known version that is missing in the answer does not exist any more.

        Args:
            without: models that must not be touched, since that hangs; they come with a problem.

        Raises:
            RegistryError: if anything could not be read; there is no partial answer.
        """
        ...

    def write_status(self, update: StatusUpdate) -> None:
        """Write a version's status.

        Raises:
            RegistryError: if it could not be written.
        """
        ...


def version_order(version: str) -> tuple[int, int, str]:
    """Sort key of version numbers: 2 before 10, and names that are no numbers first."""
    if version.isascii() and version.isdigit():
        return (1, int(version), "")
    return (0, 0, version)


def tags_of(update: StatusUpdate) -> dict[str, str]:
    """The tags that tell a status; the status is the last of them."""
    owner = {OWNER_TAG: update.owner} if update.owner else {}
    return {**owner, MESSAGE_TAG: update.message, STATUS_TAG: update.status.value}


def with_status(registry: Registry, update: StatusUpdate) -> Registry:
    """The registry as it is after a status was written, without asking it again."""
    model = registry.get(update.model)
    if model is None:
        return registry
    own = tags_of(update)
    versions = tuple(
        replace(seen, tags={**seen.tags, **own}) if seen.version == update.version else seen
        for seen in model.versions
    )
    return {**registry, model.name: replace(model, versions=versions)}
