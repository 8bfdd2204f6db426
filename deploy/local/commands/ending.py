"""What `penstock off` would end, and what is left of the model then, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.deploy.local.status.document import ModelStatus, RevisionStatus
from penstock.registry_sync.sources.types import Status

NAMED_MAX = 20
"""Most versions of a model that a message lists."""


@dataclass(frozen=True)
class Ending:
    """What is about to be ended.

    Attributes:
        versions: those that are turned off.
        lines: what is lost by that, for the operator.
    """

    versions: tuple[str, ...]
    lines: tuple[str, ...]


def ending_of(model: ModelStatus, version: str | None) -> Ending | None:
    """What turning off a version ends, or a whole model; None if there is no such version.

    Of a whole model, what is stable and superseded is turned off too: else it would take over.
    """
    known = _known(model)
    versions = known if version is None else [each for each in known if each == version]
    if not versions:
        return None
    lines = [_line(model, each) for each in versions]
    return Ending(tuple(versions), (*lines, _outlook(model, versions)))


def listed(model: ModelStatus) -> str:
    """The versions that could be turned off, for who named another."""
    known = _known(model)
    more = f" and {len(known) - NAMED_MAX} more" if len(known) > NAMED_MAX else ""
    return (", ".join(known[:NAMED_MAX]) + more) or "none"


def _known(model: ModelStatus) -> list[str]:
    """What is deployed, or may come to be without anybody's word."""
    deployed = [each.version for each in model.revisions]
    asked = [each.version for each in model.versions if each.status != Status.RETIRED]
    return list(dict.fromkeys([*deployed, *asked]))


def _line(model: ModelStatus, version: str) -> str:
    told = next((each for each in model.versions if each.version == version), None)
    revisions = [each for each in model.revisions if each.version == version]
    if not revisions:
        return f"version {version}: {told.status if told else 'unknown'}, not deployed"
    word = told.status if told is not None else revisions[0].phase
    ready = sum(each.replicas_ready for each in revisions)
    parts = [word, f"{ready} {'replica' if ready == 1 else 'replicas'} ready"]
    queued = sum(_queued(each) for each in revisions)
    if queued:
        parts.append(f"{queued} rows queued or executing")
    if told is not None and told.gone:
        parts.append("the registry has it no more, so that it cannot be named stable again")
    return f"version {version}: {', '.join(parts)}"


def _queued(revision: RevisionStatus) -> int:
    return sum(each.queued_rows + each.executing_rows for each in revision.replicas)


def _outlook(model: ModelStatus, versions: list[str]) -> str:
    serving = [each.version for each in model.revisions if each.phase == Status.SERVING]
    coming = sorted({each for each in _coming(model) if each not in versions})
    kept = [each for each in serving if each not in versions]
    if kept:
        return f"version {kept[0]} goes on to serve"
    if not serving:
        return "none of it serves now"
    if coming:
        return f"version {serving[0]} serves until version {coming[0]} is ready"
    return "nothing else of it is deployed: calls get 503 and then 404, those accepted are finished"


def _coming(model: ModelStatus) -> Iterator[str]:
    words = (Status.LOADING, Status.READY, Status.FAILED)
    yield from (each.version for each in model.revisions if each.phase in words)
