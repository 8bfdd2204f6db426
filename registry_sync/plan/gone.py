"""What serves though the registry has it no more (pure).

Whoever deletes a version, or a whole model, tidies up a registry; that is no word on what serves.
As with a registry that lost its models, what serves goes on, as it is, until `penstock off` ends it
or another version takes over. The operator is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.registry_sync.plan.roles import is_held_off, roles_of
from penstock.registry_sync.plan.world import Policy, World
from penstock.registry_sync.sources.types import ObservedModel, Registry, VersionKey
from penstock.shared.contracts.deployment import Deployment, Phase, RevisionDeployment

NO_MODELS = "the registry lists no models"
UNTIL = "it serves on until `penstock off` ends it, or another version is named stable"


def why_gone(model: ObservedModel | None, revision: RevisionDeployment) -> str:
    """Why a registry that was seen has a revision's version no more; empty if it has it.

    Args:
        model: as observed; None if the registry does not have it.
    """
    if model is None:
        return "the registry has this model no more"
    if model.left_out:
        return "this system does not follow the model any more"
    if model.problem:
        return ""
    seen = model.version(revision.version)
    if seen is None:
        return "the registry has this version no more"
    was, now = revision.source, seen.source
    # A folder's identity is its content, which may be edited; that of others is the version's own.
    if now.folder is None and was.identity and now.identity and was.identity != now.identity:
        return "the registry has another version of this number"
    return ""


def gone_versions(world: World, policy: Policy) -> Mapping[VersionKey, str]:
    """Versions that serve and are gone, each with the reason."""
    if world.emptied:
        return dict.fromkeys(_serving(world.deployment), f"{NO_MODELS}; {UNTIL}")
    if world.observed is None:
        return {}
    registry: Registry = world.observed
    told: dict[VersionKey, str] = {}
    for key, revision in _serving(world.deployment).items():
        model = registry.get(revision.model)
        why = why_gone(model, revision)
        if why and not _is_replaced(key, world, policy):
            told[key] = f"{why}; {UNTIL}"
    return told


def _is_replaced(key: VersionKey, world: World, policy: Policy) -> bool:
    """Whether another version of its number is named stable, so that this is its change."""
    name, version = key
    model = (world.observed or {}).get(name)
    if model is None or model.version(version) is None:
        return False
    return roles_of(model, policy.stable_aliases, off_of(world, name)).stable == version


def spent(world: World, policy: Policy) -> frozenset[VersionKey]:
    """What was turned off, has ended, and would not serve again if that were forgotten."""
    if not world.turned_off or world.observed is None or world.emptied:
        return frozenset()
    deployed = {(each.model, each.version) for each in world.deployment.revisions.values()}
    return frozenset(
        key for key in world.turned_off - deployed if not _may_come_back(key, world, policy)
    )


def off_of(world: World, model: str) -> frozenset[str]:
    """Versions of a model that were turned off in the store."""
    return frozenset(version for name, version in world.turned_off if name == model)


def _may_come_back(key: VersionKey, world: World, policy: Policy) -> bool:
    name, version = key
    model = (world.observed or {}).get(name)
    if model is None or model.left_out:
        return False
    if model.problem:  # what it is named cannot be told now
        return True
    return is_held_off(model, policy.stable_aliases, version, off_of(world, name))


def _serving(deployment: Deployment) -> Mapping[VersionKey, RevisionDeployment]:
    return {
        (each.model, each.version): each
        for each in deployment.revisions.values()
        if each.phase is Phase.SERVING
    }
