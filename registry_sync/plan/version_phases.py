"""In which phase each version is, as metrics tell it (pure).

A version that failed is failed until it serves or nobody wants it: while it is tried again its
phase is `loading`, and whoever watches for `failed` would see it come and go. What never became
part of the deployment counts too: a version whose artifacts cannot be had, or that is invalid.

A version may be in two phases: it serves, and a change of its settings is loading or has failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from penstock.registry_sync.plan.statuses import status_of_phase
from penstock.registry_sync.sources.types import Status, StatusUpdate
from penstock.shared.contracts.deployment import Deployment, Phase, RevisionDeployment

NAMED_VERSIONS_MAX = 500
"""Versions that metrics name: each is a series, and thousands of them would burden Prometheus."""

OTHERS = ("", "")
"""The model and version under which all further versions are counted; no model has this name."""

PHASES = (Status.FAILED, Status.INVALID, Status.LOADING, Status.DRAINING, Status.SERVING)
"""All phases; what comes first is named first where not every version can be."""

_TROUBLES = frozenset({Status.FAILED, Status.INVALID})

VersionKey: TypeAlias = tuple[str, str]
PhaseCounts: TypeAlias = Mapping[tuple[str, str, Status], int]
"""How many versions are in a phase, by model, version and phase."""


def version_phases(
    deployment: Deployment, told: Iterable[StatusUpdate]
) -> dict[VersionKey, frozenset[Status]]:
    """The phases of each version that is deployed or cannot be.

    Args:
        told: what operators are told of versions.
    """
    phases: dict[VersionKey, set[Status]] = {}
    for revision in deployment.revisions.values():
        key = (revision.model, revision.version)
        phases.setdefault(key, set()).add(_phase_of(revision))
    for update in told:
        if update.status in _TROUBLES:
            found = phases.setdefault((update.model, update.version), set())
            found.discard(Status.LOADING)  # it is this that failed
            found.add(update.status)
    return {key: frozenset(found) for key, found in phases.items()}


def _phase_of(revision: RevisionDeployment) -> Status:
    if revision.phase is Phase.LOADING and revision.failures:
        return Status.FAILED
    return status_of_phase(revision)


def phase_counts(
    versions: Mapping[VersionKey, frozenset[Status]], named_max: int = NAMED_VERSIONS_MAX
) -> PhaseCounts:
    """What is shown: the first `named_max` versions by name, the others added up.

    The sum over a phase is the number of versions in it, also where it is 0.
    """
    order = sorted(versions, key=lambda key: (min(map(PHASES.index, versions[key])), key))
    counts: Counter[tuple[str, str, Status]] = Counter({(*OTHERS, phase): 0 for phase in PHASES})
    for number, key in enumerate(order):
        shown = key if number < named_max else OTHERS
        for phase in versions[key]:
            counts[(*shown, phase)] += 1
    return counts
