"""What is known of each version by now: whether it ever served, and how it last failed (pure).

A plan is a moment, and what it no longer deploys it forgets. So what the deployment says now is
added to what was known before, and is written down. Statuses of what is over are told by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.registry_sync.plan.placement import Placing
from penstock.registry_sync.plan.wishes import Wish
from penstock.registry_sync.plan.world import World
from penstock.registry_sync.sources.types import MESSAGE_LENGTH_MAX
from penstock.shared.contracts.deployment import Deployment, Phase, RevisionDeployment
from penstock.shared.contracts.history import ModelPast, VersionPast

_SERVED = (Phase.SERVING, Phase.DRAINING)


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

    What serves and what is wanted are as they were: `history` tells their changes.
    """
    before = revisions_by_model(world.deployment)
    after = revisions_by_model(deployment)
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


def revisions_by_model(deployment: Deployment) -> dict[str, dict[str, RevisionDeployment]]:
    """Revisions by model, then by id."""
    models: dict[str, dict[str, RevisionDeployment]] = {}
    for revision in deployment.revisions.values():
        models.setdefault(revision.model, {})[revision.revision] = revision
    return models


def _failure(
    version: str, revisions: Iterable[RevisionDeployment], wish: Wish, placing: Placing
) -> _Failure | None:
    """How a version fails at this moment, if it does."""
    for each in revisions:
        mark = f"{each.revision} {each.failures} {each.changed_at}"
        unplaced = placing.unplaced.get(each.revision)
        if each.phase is Phase.FAILED:
            return _Failure(mark, each.message, each.changed_at)
        if each.phase is Phase.SERVING and each.message:
            return _Failure(mark, each.message)
        if each.phase is Phase.LOADING and unplaced is not None and unplaced.lasting:
            return _Failure(f"{mark} has no place", unplaced.reason)
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
        reason = bounded_line(failure.reason)
        update["failing"] = True
        if (failure.mark, reason) != (known.mark, known.failure):
            at = now if failure.at is None else failure.at
            update |= {"failed_at": at, "failure": reason, "mark": failure.mark}
    elif any(each.phase is Phase.SERVING for each in there):
        update["failing"] = False
    return changed(known, update, now)


def changed(known: VersionPast, update: Mapping[str, object], now: float) -> VersionPast:
    """A version's past with an update, and the time of that if it is another then."""
    following = known.model_copy(update=update)
    return following if following == known else following.model_copy(update={"changed_at": now})


def bounded_line(text: str) -> str:
    """A reason on one line, no longer than a status message."""
    return " ".join(text.split())[:MESSAGE_LENGTH_MAX]
