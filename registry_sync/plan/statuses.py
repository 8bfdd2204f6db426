"""What the operator reads on each version (pure): a projection of the deployment, nothing more.

Statuses are compared with what the registry shows, so a write that was lost, or a tag that somebody
edited, is repaired at the next plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from penstock.registry_sync.plan.ownership import is_owner
from penstock.registry_sync.plan.placement import Placing, asked
from penstock.registry_sync.plan.wishes import Wish
from penstock.registry_sync.plan.world import Reports, World
from penstock.registry_sync.sources.types import (
    MESSAGE_LENGTH_MAX,
    MESSAGE_TAG,
    OVER,
    OWNER_TAG,
    STATUS_TAG,
    ObservedModel,
    ObservedVersion,
    Registry,
    Status,
    StatusUpdate,
    VersionKey,
)
from penstock.shared.contracts.deployment import (
    Deployment,
    Phase,
    ReplicaPlacement,
    ReplicaState,
    RevisionDeployment,
    VersionStatus,
)
from penstock.shared.contracts.history import ModelPast, VersionPast
from penstock.shared.contracts.ids import is_model_name

REPORTED_MAX = 1000
"""Most statuses in a report, which is written every second."""

TURNED_OFF = (
    "turned off by `penstock off`, though it is named stable; `penstock off MODEL --undo` ends that"
)

_STARTED_AGAIN = (ReplicaState.BACKOFF, ReplicaState.FETCHING, ReplicaState.LOADING)


def all_statuses(
    observed: Registry | None,
    deployment: Deployment,
    wishes: Mapping[str, Wish],
    placing: Placing,
    reports: Reports,
    gone: Mapping[VersionKey, str],
    past: Mapping[str, ModelPast] = MappingProxyType({}),
) -> tuple[StatusUpdate, ...]:
    """Statuses of all versions that somebody asked for; none while the registry was not seen.

    Args:
        gone: what serves though the registry has it no more, each with what to tell of that.
        past: what was written down of models: the evidence of what is not deployed any more.
    """
    projection = _Projection(deployment, placing, reports, past)
    updates: list[StatusUpdate] = []
    for model in (observed or {}).values():
        for seen in model.versions:
            if (model.name, seen.version) in gone:
                continue
            wish = wishes[model.name]
            problem = model.problem or (wish.problems[0] if wish.fault is not None else "")
            if problem and wish.version != seen.version:
                update = _of_problem(problem, model, seen, wish)
            else:
                update = projection.status_of(model, seen, wish)
            if update is not None:
                updates.append(update)
    updates += [projection.of_gone(key, why, wishes[key[0]]) for key, why in gone.items()]
    return tuple(updates)


def status_of_phase(revision: RevisionDeployment) -> Status:
    """The word for what a revision's phase says; what is never tried again is invalid."""
    if revision.phase is Phase.FAILED and revision.retry_at is None:
        return Status.INVALID
    return Status(revision.phase.value)


def not_shown(updates: Iterable[StatusUpdate], world: World) -> tuple[StatusUpdate, ...]:
    """Those that differ from what the registry shows, with their owner where that differs."""
    seen = {
        (each.model, each.version): each
        for model in (world.observed or {}).values()
        for each in model.versions
    }
    written: list[StatusUpdate] = []
    for each in updates:
        key = (each.model, each.version)
        if each.gone or key in world.resting:
            continue
        if not is_owner(seen[key].tags.get(OWNER_TAG, ""), world.owner) and world.owner:
            written.append(replace(each, owner=world.owner))
        elif not _is_shown(each, seen[key]):
            written.append(each)
    return tuple(written)


def for_report(updates: Iterable[StatusUpdate]) -> tuple[tuple[VersionStatus, ...], int]:
    """Statuses as they are reported, and how many are left out beyond the bound.

    Of what is over, the last version of a model is told, and only where nothing else is.
    """
    told: list[StatusUpdate] = []
    over: dict[str, StatusUpdate] = {}
    for update in updates:
        if update.status in OVER:
            over[update.model] = update
        else:
            told.append(update)
    there = {update.model for update in told}
    told += [update for model, update in over.items() if model not in there]
    kept = tuple(
        VersionStatus(
            model=each.model,
            version=each.version,
            status=each.status.value,
            message=each.message,
            gone=each.gone,
        )
        for each in told[:REPORTED_MAX]
    )
    return kept, max(0, len(told) - REPORTED_MAX)


def _of_problem(
    problem: str, model: ObservedModel, seen: ObservedVersion, wish: Wish
) -> StatusUpdate | None:
    """Where nothing of the model is deployed, its last version tells what is wrong with it."""
    if not _speaks_for(model, seen, wish):
        return None
    return StatusUpdate(seen.model, seen.version, Status.INVALID, _sentences([problem]))


def _speaks_for(model: ObservedModel, seen: ObservedVersion, wish: Wish) -> bool:
    """Whether a version tells what is wrong with its model, of which nothing is to serve."""
    return wish.version is None and model.versions[-1:] == (seen,)


def _is_shown(update: StatusUpdate, seen: ObservedVersion) -> bool:
    shown = (seen.tags.get(STATUS_TAG), seen.tags.get(MESSAGE_TAG, ""))
    return shown == (update.status.value, update.message)


def _sentences(parts: Iterable[str]) -> str:
    """Parts as one message, on one line and bounded."""
    text = "; ".join(" ".join(part.split()) for part in parts if part)
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 3] + "..."


def _over(seen: ObservedVersion, past: VersionPast) -> tuple[Status, str] | None:
    """What nobody asks for any more, by what was written down; else by what its tags say."""
    if past.served:
        return Status.RETIRED, past.last_failure if past.failing else ""
    if past.failed_at is not None:
        return Status.WITHDRAWN, past.last_failure
    shown, message = seen.tags.get(STATUS_TAG), seen.tags.get(MESSAGE_TAG, "")
    match shown:
        case None:
            return None
        case Status.RETIRED | Status.WITHDRAWN:
            return Status(shown), message
        case Status.SERVING | Status.DRAINING:
            return Status.RETIRED, ""
        case Status.FAILED | Status.INVALID:
            return Status.WITHDRAWN, f"it was {shown}: {message}"
    return Status.WITHDRAWN, ""


class _Projection:
    """Statuses as seen from one deployment."""

    def __init__(
        self,
        deployment: Deployment,
        placing: Placing,
        reports: Reports,
        past: Mapping[str, ModelPast],
    ) -> None:
        self._past = past
        self._unplaced = placing.unplaced
        self._reports = reports
        self._places: dict[str, list[ReplicaPlacement]] = {}
        for each in deployment.placement:
            self._places.setdefault(each.revision, []).append(each)
        self._revisions: dict[tuple[str, str], dict[Phase, RevisionDeployment]] = {}
        for revision in deployment.revisions.values():
            key = (revision.model, revision.version)
            self._revisions.setdefault(key, {})[revision.phase] = revision

    def status_of(
        self, model: ObservedModel, seen: ObservedVersion, wish: Wish
    ) -> StatusUpdate | None:
        """The status of a version, or None for one that nobody ever asked for."""
        wished = wish.version == seen.version
        found = self._deployed(seen) or self._undeployed(model, seen, wish)
        if found is None:
            return None
        status, message = found
        parts = [message]
        if wished and wish.lingering and status is Status.SERVING:
            parts.append("nothing is named stable; this serves on until its role is off")
        if status is Status.SERVING and not wished and wish.version is not None:
            parts.append(f"until version {wish.version} is ready")
        if status is not Status.INVALID:
            parts.append(wish.roles.unknown.get(seen.version, ""))
        if wished and wish.failure is not None and status is Status.SERVING:
            parts.append(f"its change failed: {wish.failure.message}")
        if wished:
            parts += wish.problems
        return StatusUpdate(seen.model, seen.version, status, _sentences(parts))

    def of_gone(self, key: VersionKey, why: str, wish: Wish) -> StatusUpdate:
        """The status of a version that serves though the registry has it no more."""
        served = self._revisions[key][Phase.SERVING]
        seen = ObservedVersion(*key, served.source)
        update = self.status_of(ObservedModel(served.model), seen, replace(wish, lingering=False))
        if update is None:
            raise AssertionError(f"{key} serves, and has no status")
        return replace(update, message=_sentences([why, update.message]), gone=True)

    def _undeployed(
        self, model: ObservedModel, seen: ObservedVersion, wish: Wish
    ) -> tuple[Status, str] | None:
        roles, version = wish.roles, seen.version
        named = version == roles.stable or version in roles.superseded
        if named and not is_model_name(model.name):
            return Status.INVALID, "the model's name cannot be part of a URL"
        if wish.version == version:
            if wish.failure is not None:
                return Status.FAILED, f"artifacts: {wish.failure.message}"
            return Status.LOADING, "artifacts are being fetched"
        if version in roles.unknown:
            return Status.INVALID, roles.unknown[version]
        if wish.roles.dangling and _speaks_for(model, seen, wish):
            return Status.INVALID, wish.roles.dangling
        past = self._past.get(model.name, ModelPast()).versions.get(version, VersionPast())
        if version in roles.superseded:
            failure = past.last_failure if past.failing else ""
            return Status.SUPERSEDED, _sentences([roles.superseded[version], failure])
        if version in roles.turned_off:
            return Status.RETIRED if past.served else Status.WITHDRAWN, TURNED_OFF
        return _over(seen, past)

    def _deployed(self, seen: ObservedVersion) -> tuple[Status, str] | None:
        """What the most advanced revision of a version is at."""
        phases = self._revisions.get((seen.model, seen.version), {})
        failed = phases.get(Phase.FAILED)
        if serving := phases.get(Phase.SERVING):
            parts = [self._shortage(serving), serving.message, *self._notes(serving)]
            if failed is not None:
                parts.append(f"its change failed: {failed.message}")
            if loading := phases.get(Phase.LOADING):
                parts.append(f"its change: {self._loading(loading)[1] or 'loading'}")
            return Status.SERVING, _sentences(parts)
        if loading := phases.get(Phase.LOADING):
            return self._loading(loading)
        if failed is not None:
            return status_of_phase(failed), failed.message
        return (Status.DRAINING, "") if phases else None

    def _shortage(self, revision: RevisionDeployment) -> str:
        """What a serving revision lacks."""
        places = self._places.get(revision.revision, [])
        ready, wanted = self._reports.ready(places), asked(revision, self._reports)
        unplaced = self._unplaced.get(revision.revision)
        if ready >= wanted and unplaced is None:
            return ""
        reason = unplaced.reason if unplaced is not None else ""
        return _sentences([f"{ready} of {wanted} replicas ready", reason, *self._troubles(places)])

    def _loading(self, revision: RevisionDeployment) -> tuple[Status, str]:
        unplaced = self._unplaced.get(revision.revision)
        places = self._places.get(revision.revision, [])
        if unplaced is not None:
            return Status.FAILED if unplaced.lasting else Status.LOADING, unplaced.reason
        if not places:
            return Status.LOADING, "waits for the version before it to end"
        if self._reports.ready(places) == len(places):
            waits = "waits for all gateways to see it"
            return Status.READY, _sentences([waits, *self._notes(revision)])
        retried = f"failed before: {revision.message}" if revision.message else ""
        return Status.LOADING, _sentences([retried, *self._troubles(places)])

    def _notes(self, revision: RevisionDeployment) -> list[str]:
        """What is to be known of a model that is served all the same, once for all replicas."""
        places = self._places.get(revision.revision, [])
        ready = [place.key for place in places if self._reports.is_ready(place.key)]
        replicas = [self._reports.replica(key) for key in ready]
        return sorted({each.note for each in replicas if each is not None and each.note})

    def _troubles(self, places: Iterable[ReplicaPlacement]) -> list[str]:
        return sorted({self._trouble(each.key) for each in places})

    def _trouble(self, key: str) -> str:
        """Why a replica is not there, until it is: a crash counts while it is loaded again."""
        replica = self._reports.replica(key)
        if replica is None or replica.state not in _STARTED_AGAIN or not replica.message:
            return ""
        return f"a replica ended and is started again: {replica.message}"
