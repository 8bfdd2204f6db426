"""How the demo names its tags: as the system does that runs it."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.registry_sync.plan.tags.names import DEFAULT_PREFIX, TagNames
from penstock.registry_sync.sources.types import ROLE_TAG

PREFIX_VARIABLE = "PENSTOCK_TAG_PREFIX"


def role_tag(environ: Mapping[str, str]) -> str:
    """The tag that names a version stable, by the variable of registry_sync."""
    return TagNames(environ.get(PREFIX_VARIABLE, DEFAULT_PREFIX)).outward(ROLE_TAG)
