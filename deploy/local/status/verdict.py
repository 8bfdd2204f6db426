"""Whether all is well with a system, as an exit code for scripts, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.deploy.local.status.document import ModelStatus, RevisionStatus, SystemStatus
from penstock.registry_sync.sources.types import Status
from penstock.shared.contracts.deployment import ReplicaState

WELL, FAILED, LOADING = 0, 1, 3

_FAILED_WORDS = frozenset({Status.FAILED, Status.INVALID})
_LOADING_WORDS = frozenset({Status.LOADING, Status.READY})
_FAILED_REPLICAS = frozenset({ReplicaState.FAILED, ReplicaState.INVALID})


def exit_code(status: SystemStatus) -> int:
    """1 if something failed or is invalid, else 3 if something is not there yet, else 0."""
    words = [word for model in status.models for word in _words(model)]
    revisions = [each for model in status.models for each in model.revisions]
    replicas = [replica.state for each in revisions for replica in each.replicas]
    if not _FAILED_WORDS.isdisjoint(words) or not _FAILED_REPLICAS.isdisjoint(replicas):
        return FAILED
    short = any(each.phase == Status.SERVING and _is_short(each) for each in revisions)
    if short or not _LOADING_WORDS.isdisjoint(words) or not (status.gateways and status.syncs):
        return LOADING
    return WELL


def _words(model: ModelStatus) -> Iterator[str]:
    """Statuses, and phases of revisions: a change may fail beside a version that serves."""
    yield from (each.status for each in model.versions)
    yield from (each.phase for each in model.revisions)


def _is_short(revision: RevisionStatus) -> bool:
    """Whether replicas are missing; where each worker has one, whether there is none at all."""
    wanted = revision.replicas_wanted
    return revision.replicas_ready < (wanted if isinstance(wanted, int) else 1)
