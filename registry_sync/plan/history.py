"""What is written down of a plan: what happened to models, and who asked for it (pure).

Theory. Events are what changed since something was last written down, and not since the plan
before: so a new leader, or one whose write was lost, tells an event once.

A version that fails again and again for the same reason makes one event, and at most
`FAILURES_TOLD_MAX` where the reason differs each time, until it serves without fault or is asked
for anew. The last failure is kept in its past anyway, and no failure pushes out who switched what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from penstock.registry_sync.plan.gone import off_of
from penstock.registry_sync.plan.past import bounded_line, changed, revisions_by_model
from penstock.registry_sync.plan.roles import OFF
from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.plan.wishes import NO_ROLES, Wish
from penstock.registry_sync.plan.world import World
from penstock.registry_sync.sources.types import ROLE_TAG, STATUS_TAG, Status, StatusUpdate
from penstock.shared.contracts.deployment import Deployment, Phase, RevisionDeployment
from penstock.shared.contracts.history import (
    VERSIONS_MAX,
    EventKind,
    HistoryEvent,
    ModelPast,
    VersionPast,
)

FAILURES_TOLD_MAX = 5
"""Most events of one version's failures until it serves: reasons may hold numbers that change."""

_OVER = {Status.RETIRED: EventKind.RETIRED, Status.WITHDRAWN: EventKind.WITHDRAWN}


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
    names: TagNames,
) -> Written:
    """What is to be written down of a plan; `past` is what `past` found."""
    statuses: dict[str, dict[str, StatusUpdate]] = {}
    for each in told:
        statuses.setdefault(each.model, {})[each.version] = each
    there, before = revisions_by_model(deployment), revisions_by_model(world.deployment)
    events: list[HistoryEvent] = []
    following: dict[str, ModelPast | None] = {}
    for name in sorted({*past, *wishes}):
        known, kept = world.past.get(name), there.get(name, {})
        wish = wishes.get(name, Wish())
        if known is None and name not in past and wish.version is None:
            continue  # nobody ever asked for anything of it
        all_revisions = {**before.get(name, {}), **kept}
        tale = _Tale(
            model=name,
            world=world,
            wish=wish,
            past=past.get(name, ModelPast()),
            revisions=all_revisions,
            names=names,
        )
        events += tale.tell(kept, statuses.get(name, {}))
        if tale.is_gone and not kept:
            following |= {name: None} if known is not None else {}
        elif tale.past != (known or ModelPast()):
            following[name] = tale.past
    return Written(tuple(events), following)


class _Tale:
    """What happened to one model between what was written and now.

    Attributes:
        past: what is known of it, as it is to be written.
    """

    def __init__(
        self,
        model: str,
        world: World,
        wish: Wish,
        past: ModelPast,
        revisions: Mapping[str, RevisionDeployment],
        names: TagNames,
    ) -> None:
        self.past = past
        self._model = model
        self._before = world.past.get(model, ModelPast())
        self._observed = world.observed
        self._seen = world.observed.get(model) if world.observed is not None else None
        self._now = world.now
        self._wish = wish
        self._revisions = revisions
        self._turned_off = off_of(world, model)
        self._off_tag = f"tag {names.outward(ROLE_TAG)} = {OFF}"

    @property
    def is_gone(self) -> bool:
        """Whether the registry was seen, and has it no more."""
        return self._observed is not None and self._seen is None

    def tell(
        self, there: Mapping[str, RevisionDeployment], statuses: Mapping[str, StatusUpdate]
    ) -> list[HistoryEvent]:
        """The events, in order; `there` are revisions that stay."""
        events: list[HistoryEvent] = []
        if self._seen is not None and not self._seen.problem and self._wish.fault is None:
            events += self._wanted()
        events += self._failures()
        events += self._switched(there.values())
        if self._observed is not None and self._wish.fault is None:
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
            if version in self.past.versions:
                self._note(version, failures_told=0)
        self.past = self.past.model_copy(update={"wanted": version, "by": by if version else ""})

    def _failures(self) -> Iterator[HistoryEvent]:
        for version, now in self.past.versions.items():
            known = self._before.versions.get(version, VersionPast())
            if now.failing and now.failures_told < FAILURES_TOLD_MAX and _is_news(known, now):
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
        return {"who": self._who_ended(self.past.serving), "why": self._wish.because}

    def _who_ended(self, version: str) -> str:
        if version in self._turned_off:
            return "penstock off"
        return self._off_tag if version in self._wish.roles.off else ""

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
        return {"who": "tags", "why": bounded_line("; ".join(changes))}

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
                yield self._event(kind, version, who=self._who_ended(version), why=update.message)
            if (kind is not None) != known.over:
                self._note(version, over=kind is not None)
        if self._seen is not None and self._seen.problem:
            return
        for version, known in list(self.past.versions.items()):
            if known.over or version in statuses or version in deployed:
                continue
            kind = EventKind.RETIRED if known.served else EventKind.WITHDRAWN
            why = "it is in the registry no more"
            yield self._event(kind, version, who=self._who_ended(version), why=why)
            versions = {name: it for name, it in self.past.versions.items() if name != version}
            self.past = self.past.model_copy(update={"versions": versions})

    def _is_shown(self, update: StatusUpdate) -> bool:
        """Whether the registry shows a status already, which is written after it was told here."""
        seen = self._seen.version(update.version) if self._seen is not None else None
        return seen is not None and seen.tags.get(STATUS_TAG) == update.status

    def _note(self, version: str, **update: object) -> None:
        known = self.past.versions.get(version, VersionPast())
        noted = changed(known, update, self._now)
        versions = {**self.past.versions, version: noted}
        self.past = self.past.model_copy(update={"versions": versions})


def _is_news(known: VersionPast, now: VersionPast) -> bool:
    """Whether a failure is another one, and none of its kind was told."""
    if (now.mark, now.failure) == (known.mark, known.failure):
        return False
    return now.failures_told == 0 or now.failure != known.failure


def _newest(versions: Mapping[str, VersionPast]) -> dict[str, VersionPast]:
    """Those that are kept, where there are too many: what is not over, then what changed last."""
    if len(versions) <= VERSIONS_MAX:
        return dict(versions)
    ranked = sorted(versions.items(), key=lambda item: (item[1].over, -item[1].changed_at))
    return dict(ranked[:VERSIONS_MAX])
