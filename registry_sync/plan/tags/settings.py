"""How a version is to be served, as tags of its model and of itself say (pure).

A tag on the version overrides the tag of the same name on the model. A value that cannot be read
keeps what runs: the setting stays as deployed, or at its default if nothing is deployed, and the
status message says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict

from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.plan.tags.table import NO_SETTINGS, SETTINGS
from penstock.registry_sync.sources.types import PREFIX
from penstock.shared.contracts.deployment import (
    InPlaceSettings,
    ReplicaSettings,
    RevisionDeployment,
)


class ServingSettings(ReplicaSettings, InPlaceSettings):
    """How a version is to be served: all that its tags say.

    A field that came later (`jobs`, `batching`, `warmup`) has None for its default: what runs since
    before there was such a tag stays as it is.
    """

    model_config = ConfigDict(extra="forbid")

    @property
    def replica(self) -> ReplicaSettings:
        """The part that a replica is started with."""
        return ReplicaSettings(**_fields(self, ReplicaSettings))

    @property
    def in_place(self) -> dict[str, Any]:
        """The fields of the other part, which what runs can follow."""
        return _fields(self, InPlaceSettings)


def _fields(
    settings: InPlaceSettings | ServingSettings,
    part: type[ReplicaSettings] | type[InPlaceSettings],
) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in part.model_fields}


def deployed_settings(revision: RevisionDeployment) -> ServingSettings:
    """What a deployed revision runs with."""
    return ServingSettings(**dict(revision.settings), **_fields(revision, InPlaceSettings))


def read_settings(
    model_tags: Mapping[str, str],
    version_tags: Mapping[str, str],
    defaults: ServingSettings,
    running: ServingSettings | None,
    names: TagNames = DEFAULT_NAMES,
) -> tuple[ServingSettings, tuple[str, ...]]:
    """Read the settings of one version.

    Args:
        running: what is deployed now, kept where a tag cannot be read.
        names: what the operator calls our tags.

    Returns:
        The settings, and a sentence for each tag that could not be read.
    """
    texts = {**_wishes(model_tags), **_wishes(version_tags)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for tag in SETTINGS:
        text = texts.pop(PREFIX + tag.name, None)
        try:
            values[tag.field] = (
                getattr(defaults, tag.field) if text is None else tag.reader.read(text.strip())
            )
        except ValueError:
            values[tag.field] = kept = getattr(running or defaults, tag.field)
            problems.append(
                f"{names.outward(tag.name)} is {str(text)[:40]!r}, expected {tag.reader.expected}; "
                f"{tag.said(kept)} stays"
            )
    problems += [f"{names.outward(tag)[:60]} is no tag of Penstock" for tag in sorted(texts)]
    return ServingSettings(**values), tuple(problems)


def _wishes(tags: Mapping[str, str]) -> dict[str, str]:
    return {
        tag: text for tag, text in tags.items() if tag.startswith(PREFIX) and tag not in NO_SETTINGS
    }
