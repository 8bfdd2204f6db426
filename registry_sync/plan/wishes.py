"""What is to become of each model, from the registry and from what is deployed (pure).

A `Wish` names the one revision of a model that is to serve in the end. Where the registry was not
seen, the deployment itself says what was wished last, so that rollouts go on and losses are mended
while the registry is away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import orjson

from penstock.registry_sync.plan.gone import why_gone
from penstock.registry_sync.plan.roles import Roles, roles_of
from penstock.registry_sync.plan.tags.settings import (
    ServingSettings,
    deployed_settings,
    read_settings,
)
from penstock.registry_sync.plan.world import FetchFailure, Policy, Prepared
from penstock.registry_sync.sources.types import ObservedModel, ObservedVersion
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Phase,
    ReplicaSettings,
    RevisionDeployment,
)
from penstock.shared.contracts.ids import is_model_name

FIRST_SETTINGS = frozenset(
    {"max_batch_size", "max_queue_delay_ms", "device", "threads", "environment"}
)
LATER_SETTINGS = frozenset(ReplicaSettings.model_fields) - FIRST_SETTINGS
"""Replica settings that revision ids did not always know, as all that are still to come."""

NO_ROLES = Roles(stable=None, off=frozenset(), superseded={}, unknown={})


@dataclass(frozen=True)
class Wish:
    """What is to serve of a model.

    Attributes:
        version: the version that is to serve, or None: nothing is.
        target: its revision, as it is to be; None while its artifacts are unknown.
        source: where its artifacts come from.
        outgoing: how what serves is to be served until the target does, by its own tags.
        failure: why its artifacts are unknown still.
        because: why nothing is to serve, for the callers of what served.
        lingering: nothing is named stable, and the last one serves on.
        problems: what the operator should mend, about the version that is wished.
        roles: what all versions are named.
        fault: an error that nobody foresaw, met as this was to be told: what is deployed stays.
    """

    version: str | None = None
    target: RevisionDeployment | None = None
    source: ArtifactSource | None = None
    outgoing: ServingSettings | None = None
    failure: FetchFailure | None = None
    because: str = ""
    lingering: bool = False
    problems: tuple[str, ...] = ()
    roles: Roles = NO_ROLES
    fault: Exception | None = None


def wish_without_registry(
    revisions: Sequence[RevisionDeployment], turned_off: frozenset[str] = frozenset()
) -> Wish:
    """What was wished of a model when the registry was last seen, but for what was turned off."""
    wanted = [revision for revision in revisions if revision.version not in turned_off]
    for phases in ((Phase.LOADING, Phase.FAILED), (Phase.SERVING,)):
        found = [revision for revision in wanted if revision.phase in phases]
        if found:
            latest = max(found, key=lambda revision: revision.changed_at)
            return Wish(version=latest.version, target=latest, source=latest.source)
    return Wish(because=_because_off(revisions))


def _because_off(revisions: Sequence[RevisionDeployment]) -> str:
    """Why a model of which nothing is wished for ends: only an operator's word does that."""
    ending = [each.version for each in revisions if each.phase in (Phase.SERVING, Phase.DRAINING)]
    return f"version {ending[0]} was turned off" if ending else "nothing is named stable"


def wish_of(
    name: str,
    model: ObservedModel | None,
    revisions: Sequence[RevisionDeployment],
    prepared: Prepared,
    policy: Policy,
    trials: Mapping[str, int] = MappingProxyType({}),
    turned_off: frozenset[str] = frozenset(),
) -> Wish:
    """What the registry wishes of a model.

    Args:
        model: the model as observed; None if the registry has it no more.
        revisions: what is deployed of it.
        trials: how often the operator asked for a new trial, by model.
        turned_off: versions that the operator ended by `penstock off`.
    """
    if model is None or model.left_out:
        return _what_serves(revisions, turned_off)
    if model.problem:
        kept = wish_without_registry(revisions, turned_off)
        return replace(kept, problems=(model.problem,))
    roles = roles_of(model, policy.stable_aliases, turned_off, policy.tag_names)
    trial = _trial(trials.get(name), revisions)
    if not is_model_name(name):
        return Wish(because=f"{name} is no valid name", roles=roles)
    if roles.stable is not None:
        return _towards(
            model=model,
            version=roles.stable,
            revisions=revisions,
            prepared=prepared,
            policy=policy,
            roles=roles,
            trial=trial,
        )
    last = next((each for each in revisions if each.phase is Phase.SERVING), None)
    if last is None or last.version in roles.off:
        return Wish(because=_because_off(revisions), roles=roles)
    if why_gone(model, last):
        return replace(_what_serves(revisions, turned_off), roles=roles)
    wish = _towards(
        model=model,
        version=last.version,
        revisions=revisions,
        prepared=prepared,
        policy=policy,
        roles=roles,
        trial=trial,
    )
    return replace(wish, lingering=True)


def _what_serves(revisions: Sequence[RevisionDeployment], turned_off: frozenset[str]) -> Wish:
    """What serves, just as it is; what was only to come is dropped."""
    serving = [each for each in revisions if each.phase in (Phase.SERVING, Phase.DRAINING)]
    return wish_without_registry(serving, turned_off)


def _trial(asked: int | None, revisions: Sequence[RevisionDeployment]) -> int | None:
    """The trial that is wished for: what is deployed counts too, lest a lost store swaps it."""
    deployed = [each.settings.trial for each in revisions]
    return max((each for each in (asked, *deployed) if each is not None), default=None)


def _towards(
    model: ObservedModel,
    version: str,
    revisions: Sequence[RevisionDeployment],
    prepared: Prepared,
    policy: Policy,
    roles: Roles,
    trial: int | None,
) -> Wish:
    seen = model.version(version)
    if seen is None:
        raise AssertionError(f"{model.name}/{version} is wished but was not observed")
    running = _running(version, revisions)
    settings, problems = read_settings(
        model.tags, seen.tags, policy.defaults, running, policy.tag_names
    )
    if roles.dangling:
        problems = (roles.dangling, *problems)
    outgoing = _outgoing(model, revisions, policy)
    wish = Wish(version, source=seen.source, outgoing=outgoing, problems=problems, roles=roles)
    manifest = _known_manifest(seen.source, revisions) or prepared.get(seen.source)
    if isinstance(manifest, ArtifactManifest):
        return replace(wish, target=revision_of(seen, manifest, settings, policy, trial))
    return replace(wish, failure=manifest)


def _outgoing(
    model: ObservedModel, revisions: Iterable[RevisionDeployment], policy: Policy
) -> ServingSettings | None:
    serving = next((each for each in revisions if each.phase is Phase.SERVING), None)
    seen = model.version(serving.version) if serving is not None else None
    if serving is None or seen is None:
        return None
    running = deployed_settings(serving)
    return read_settings(model.tags, seen.tags, policy.defaults, running)[0]


def _running(version: str, revisions: Iterable[RevisionDeployment]) -> ServingSettings | None:
    """The settings that a bad tag leaves as they are: the version's own, else its model's."""
    order = (Phase.LOADING, Phase.FAILED, Phase.SERVING)
    ranked = sorted(
        (revision for revision in revisions if revision.phase in order),
        key=lambda revision: (revision.version != version, order.index(revision.phase)),
    )
    return deployed_settings(ranked[0]) if ranked else None


def _known_manifest(
    source: ArtifactSource, revisions: Iterable[RevisionDeployment]
) -> ArtifactManifest | None:
    """The manifest of a source that is deployed, also if the registry itself moved meanwhile."""
    for revision in revisions:
        known = revision.source
        same_identity = source.identity and source.identity == known.identity
        if known == source or (same_identity and known.uri == source.uri):
            return revision.manifest
    return None


def revision_of(
    seen: ObservedVersion,
    manifest: ArtifactManifest,
    settings: ServingSettings,
    policy: Policy,
    trial: int | None = None,
) -> RevisionDeployment:
    """The revision that serves a version's artifacts with these settings; not yet in any phase."""
    replica = settings.replica.model_copy(update={"trial": trial})
    artifact_bytes = int(manifest.size_bytes * policy.memory_per_artifact_byte)
    return RevisionDeployment(
        model=seen.model,
        version=seen.version,
        revision=revision_id(seen.model, seen.version, manifest.digest, replica),
        source=seen.source,
        manifest=manifest,
        settings=replica,
        memory_bytes=policy.replica_overhead_bytes + artifact_bytes,
        **settings.in_place,
    )


def revision_id(model: str, version: str, digest: str, settings: ReplicaSettings) -> str:
    """`model/version-xxxxxxxx`: the same whenever artifacts and replica settings are the same.

    Settings that came later are left out while unset, so that an upgrade swaps nothing.
    """
    unset = {name for name in LATER_SETTINGS if getattr(settings, name) is None}
    content = orjson.dumps(
        [model, version, digest, settings.model_dump(mode="json", exclude=unset)],
        option=orjson.OPT_SORT_KEYS,
    )
    return f"{model}/{version}-{hashlib.sha256(content).hexdigest()[:8]}"
