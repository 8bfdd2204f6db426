"""What is written down of a plan: each version's past, and the events that it makes (pure).

Theory. A plan is a moment; what the next moment forgets is written down here. `past_of` adds to
what was known of a model what the deployment says now: whether a version served, and how it last
failed. `events_of` tells that from what was known before. Both look at what was written before and
not at the plan before, so that a new leader, or one whose write was lost, tells an event once.

A version that fails again and again for the same reason makes one event, and at most
`FAILURES_TOLD_MAX` where the reason differs each time, until it serves without fault: the last
failure is kept in its past anyway, and no failure pushes out who switched what.

Previous stop: `reconcile`. Next: `statuses`, which tells the evidence; the store keeps the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from registry_sync.placement import Placing
from registry_sync.registry import (
    MESSAGE_LENGTH_MAX,
    STATUS_TAG,
    ObservedModel,
    Status,
    StatusUpdate,
)
from registry_sync.roles import OFF_TAG
from registry_sync.wishes import NO_ROLES, Wish
from registry_sync.world import World
from shared.deployment import Deployment, Phase, RevisionDeployment
from shared.history import (
    VERSIONS_MAX,
    EventKind,
    HistoryEvent,
    ModelPast,
    VersionPast,
)

FAILURES_TOLD_MAX = 5
"""Most events of one version's failures until it serves: reasons may hold numbers that change."""

_SERVED = (Phase.SERVING, Phase.DRAINING)
_OVER = {Status.RETIRED: EventKind.RETIRED, Status.WITHDRAWN: EventKind.WITHDRAWN}


@dataclass(frozen=True)
class _Failure:
    """A failure that stands; `mark` differs from the one before, and `at` is None for now."""

    mark: str
    reason: str
    at: float | None = None


def past_of(
    world: World, deployment: Deployment, wishes: Mapping[str, Wish], placing: Placing
) -> dict[str, ModelPast]:
    """What is known of every model's versions, the deployment that is to be included.

    What serves and what is wanted are as they were: `events_of` tells their changes.
    """
    before = _by_model(world.deployment)
    after = _by_model(deployment)
    result = dict(world.past)
    for name in {*wishes, *before, *after}:
        past = world.past.get(name, ModelPast())
        wish = wishes.get(name, Wish())
        revisions = {**before.get(name, {}), **after.get(name, {})}
        versions = dict(past.versions)
        for version in sorted({each.version for each in revisions.values()} | _named(wish)):
            known = versions.get(version, VersionPast())
            own = [each for each in revisions.values() if each.version == version]
            there = [each for each in own if each.revision in after.get(name, {})]
            found = _known(known, own, there, _failure(version, there, wish, placing), world.now)
            if found != VersionPast():
                versions[version] = found
        if versions != past.versions:
            result[name] = past.model_copy(update={"versions": versions})
    return result


def _named(wish: Wish) -> set[str]:
    return {wish.version} if wish.version is not None else set()


def _by_model(deployment: Deployment) -> dict[str, dict[str, RevisionDeployment]]:
    models: dict[str, dict[str, RevisionDeployment]] = {}
    for revision in deployment.revisions.values():
        models.setdefault(revision.model, {})[revision.revision] = revision
    return models


def _failure(
    version: str, revisions: Iterable[RevisionDeployment], wish: Wish, placing: Placing
) -> _Failure | None:
    """How a version fails at this moment, if it does."""
    for each in revisions:
        mark = f"{each.revision} {each.failures}"
        unplaced = placing.unplaced.get(each.revision)
        if each.phase is Phase.FAILED:
            return _Failure(mark, each.message, each.changed_at)
        if each.phase is Phase.SERVING and each.message:
            return _Failure(mark, each.message)
        if each.phase is Phase.LOADING and unplaced is not None and unplaced.lasting:
            return _Failure(f"{each.revision} has no place", unplaced.reason)
    if wish.version == version and wish.failure is not None:
        return _Failure(f"fetch {wish.failure.retry_at}", f"artifacts: {wish.failure.message}")
    return None


def _known(
    known: VersionPast,
    revisions: Iterable[RevisionDeployment],
    there: Iterable[RevisionDeployment],
    failure: _Failure | None,
    now: float,
) -> VersionPast:
    """What is known of one version.

    Args:
        revisions: its revisions, those that are removed now among them.
        there: those that stay.
    """
    update: dict[str, object] = {}
    if any(each.phase in _SERVED for each in revisions):
        update["served"] = True
    if failure is not None:
        reason = _line(failure.reason)
        update["failing"] = True
        if (failure.mark, reason) != (known.mark, known.failure):
            at = now if failure.at is None else failure.at
            update |= {"failed_at": at, "failure": reason, "mark": failure.mark}
    elif any(each.phase is Phase.SERVING for each in there):
        update["failing"] = False
    return _changed(known, update, now)


def _changed(known: VersionPast, update: Mapping[str, object], now: float) -> VersionPast:
    following = known.model_copy(update=update)
    return following if following == known else following.model_copy(update={"changed_at": now})


def _line(text: str) -> str:
    return " ".join(text.split())[:MESSAGE_LENGTH_MAX]


@dataclass(frozen=True)
class Written:
    """What is to be written down.

    Attributes:
        events: what happened, in order.
        past: by model, where it changed; None: it is to be forgotten.
    """

    events: tuple[HistoryEvent, ...]
    past: Mapping[str, ModelPast | None]


def written_of(
    world: World,
    deployment: Deployment,
    wishes: Mapping[str, Wish],
    told: Iterable[StatusUpdate],
    past: Mapping[str, ModelPast],
) -> Written:
    """What is to be written down of a plan; `past` is what `past_of` found."""
    statuses: dict[str, dict[str, StatusUpdate]] = {}
    for each in told:
        statuses.setdefault(each.model, {})[each.version] = each
    revisions = _by_model(deployment)
    earlier = _by_model(world.deployment)
    events: list[HistoryEvent] = []
    changed: dict[str, ModelPast | None] = {}
    for name in sorted({*past, *wishes}):
        known = world.past.get(name)
        if known is None and name not in past and wishes[name].version is None:
            continue  # nobody ever asked for anything of it
        tale = _Tale(
            name,
            known or ModelPast(),
            past.get(name, ModelPast()),
            wishes.get(name, Wish()),
            world.observed.get(name) if world.observed is not None else None,
            {**earlier.get(name, {}), **revisions.get(name, {})},
            world.now,
        )
        events += tale.tell(revisions.get(name, {}), statuses.get(name, {}), world.observed)
        is_gone = world.observed is not None and name not in world.observed
        if is_gone and name not in revisions:
            changed |= {name: None} if known is not None else {}
        elif tale.past != (known or ModelPast()):
            changed[name] = tale.past
    return Written(tuple(events), changed)


class _Tale:
    """What happened to one model between what was written and now.

    Attributes:
        past: what is known of it, as it is to be written.
    """

    def __init__(
        self,
        model: str,
        before: ModelPast,
        past: ModelPast,
        wish: Wish,
        seen: ObservedModel | None,
        revisions: Mapping[str, RevisionDeployment],
        now: float,
    ) -> None:
        self.past = past
        self._model = model
        self._before = before
        self._wish = wish
        self._seen = seen
        self._revisions = revisions
        self._now = now

    def tell(
        self,
        there: Mapping[str, RevisionDeployment],
        statuses: Mapping[str, StatusUpdate],
        observed: object | None,
    ) -> list[HistoryEvent]:
        """The events, in order; `there` are revisions that stay."""
        events: list[HistoryEvent] = []
        if self._seen is not None and not self._seen.problem and self._wish.fault is None:
            events += self._wanted()
        events += self._failures()
        events += self._switched(there.values())
        if observed is not None and self._wish.fault is None:
            events += self._over(there.values(), statuses)
        self.past = self.past.model_copy(update={"versions": _newest(self.past.versions)})
        return events

    def _event(self, kind: EventKind, version: str, **more: object) -> HistoryEvent:
        fields = {"at": self._now, **more}
        return HistoryEvent(kind=kind, model=self._model, version=version, **fields)

    def _wanted(self) -> Iterator[HistoryEvent]:
        version = self._wish.version or ""
        named = self._wish.roles.stable == version
        by = self._wish.roles.by if named else self.past.by
        if version and version != self.past.wanted and named:
            seen = self._seen.version(version) if self._seen is not None else None
            yield self._event(
                EventKind.WANTED,
                version,
                who=by,
                registered_by=seen.registered_by if seen is not None else "",
                registry_updated_at=seen.updated_at if seen is not None else None,
            )
        self.past = self.past.model_copy(update={"wanted": version, "by": by if version else ""})

    def _failures(self) -> Iterator[HistoryEvent]:
        for version, now in self.past.versions.items():
            known = self._before.versions.get(version, VersionPast())
            is_new = now.failing and (not known.failing or now.failure != known.failure)
            if is_new and now.failures_told < FAILURES_TOLD_MAX:
                at = now.failed_at if now.failed_at is not None else self._now
                yield self._event(EventKind.FAILED, version, at=at, why=now.failure)
                self._note(version, failures_told=now.failures_told + 1)
            elif known.failing and not now.failing:
                yield self._event(EventKind.RECOVERED, version, why=f"it had {now.last_failure}")
                self._note(version, failures_told=0)

    def _switched(self, there: Iterable[RevisionDeployment]) -> Iterator[HistoryEvent]:
        serving = next((each for each in there if each.phase is Phase.SERVING), None)
        if (serving.revision if serving is not None else "") == self.past.revision:
            return
        if serving is None:
            yield self._event(
                EventKind.SWITCHED, "", before=self.past.serving, **self._why_nothing()
            )
        else:
            yield self._event(
                EventKind.SWITCHED,
                serving.version,
                before=self.past.serving,
                revision=serving.revision,
                at=serving.changed_at,
                **self._why(serving),
            )
        update = {"serving": "", "revision": ""}
        if serving is not None:
            update = {"serving": serving.version, "revision": serving.revision}
        self.past = self.past.model_copy(update=update)

    def _why_nothing(self) -> dict[str, str]:
        """Why nothing serves any more, and who asked for that."""
        if self._wish.version is not None:
            why = f"version {self._wish.version} takes its place once it ended"
            return {"who": self.past.by, "why": why}
        is_off = self.past.serving in self._wish.roles.off
        return {"who": OFF_TAG if is_off else "", "why": self._wish.because}

    def _why(self, serving: RevisionDeployment) -> dict[str, str]:
        before, roles = self.past.serving, self._wish.roles
        if serving.version == before:
            return self._why_anew(serving)
        if not before:
            why = "nothing served before"
        elif before in roles.off:
            why = f"version {before} was turned off"
        elif roles == NO_ROLES:
            why = ""
        else:
            why = roles.superseded.get(before, f"version {before} is named stable no more")
        return {"who": self.past.by, "why": why}

    def _why_anew(self, serving: RevisionDeployment) -> dict[str, str]:
        """Why another revision of the same version serves."""
        before = self._revisions.get(self.past.revision)
        if before is None:
            return {"why": "its settings or its content changed"}
        if before.manifest.digest != serving.manifest.digest:
            return {"who": "the registry", "why": "its content changed"}
        old, new = before.settings.model_dump(), serving.settings.model_dump()
        changes = [
            f"{name}: {old[name]} -> {new[name]}"
            for name in new
            if name != "trial" and old[name] != new[name]
        ]
        if not changes:
            return {"who": "penstock retry", "why": f"trial {new['trial']} was asked for"}
        return {"who": "tags", "why": _line("; ".join(changes))}

    def _over(
        self, there: Iterable[RevisionDeployment], statuses: Mapping[str, StatusUpdate]
    ) -> Iterator[HistoryEvent]:
        """What is over: told so, or gone from the registry."""
        deployed = {each.version for each in there}
        for version, update in statuses.items():
            kind = _OVER.get(update.status)
            known = self.past.versions.get(version, VersionPast())
            is_old = version not in self.past.versions and self._is_shown(update)
            if kind is not None and not known.over and not is_old:
                yield self._event(kind, version, why=update.message)
            if (kind is not None) != known.over:
                self._note(version, over=kind is not None)
        if self._seen is not None and self._seen.problem:
            return
        for version, known in list(self.past.versions.items()):
            if known.over or version in statuses or version in deployed:
                continue
            kind = EventKind.RETIRED if known.served else EventKind.WITHDRAWN
            yield self._event(kind, version, why="it is in the registry no more")
            versions = {name: it for name, it in self.past.versions.items() if name != version}
            self.past = self.past.model_copy(update={"versions": versions})

    def _is_shown(self, update: StatusUpdate) -> bool:
        """Whether the registry shows a status already, which is written after it was told here."""
        seen = self._seen.version(update.version) if self._seen is not None else None
        return seen is not None and seen.tags.get(STATUS_TAG) == update.status

    def _note(self, version: str, **update: object) -> None:
        known = self.past.versions.get(version, VersionPast())
        noted = _changed(known, update, self._now)
        versions = {**self.past.versions, version: noted}
        self.past = self.past.model_copy(update={"versions": versions})


def _newest(versions: Mapping[str, VersionPast]) -> dict[str, VersionPast]:
    """Those that are kept, where there are too many: what is not over, then what changed last."""
    if len(versions) <= VERSIONS_MAX:
        return dict(versions)
    ranked = sorted(versions.items(), key=lambda item: (item[1].over, -item[1].changed_at))
    return dict(ranked[:VERSIONS_MAX])
