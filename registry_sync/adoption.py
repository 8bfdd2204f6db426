"""What runs while the store knows nothing of it (pure).

A store that lost all that it held is filled anew from the registry, in two plans: artifacts must be
looked at before there is a revision. Until then nothing is written, so that workers go on with what
they run; after that, replicas that run the revision keep their places, wherever those are.

Previous stop: `reconcile`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from registry_sync.wishes import Wish
from registry_sync.world import Reports, World
from shared.deployment import Phase, ReplicaPlacement, ReplicaState, RevisionDeployment


def is_unknown(wish: Wish, deployed: Sequence[RevisionDeployment] | None) -> bool:
    """Whether it is not known yet what is to serve, and nothing says what does: a lost store."""
    first = wish.version is not None and not deployed
    return first and wish.target is None and wish.failure is None


def adopted(
    revisions: Iterable[RevisionDeployment],
    world: World,
    reports: Reports,
) -> Iterator[ReplicaPlacement]:
    """What runs without a place of a revision that is to have places: the store was lost.

    Placement prefers what is ready, so it stays where it is. Who reports late may find its places
    given to another worker, that loads still: these are taken back while reports settle.
    """
    placed = world.deployment.placement
    has_places = set() if world.settling else {each.revision for each in placed}
    wanted = {each.revision for each in revisions if each.phase is not Phase.DRAINING} - has_places
    keys = {each.key for each in placed}
    for worker in reports.workers.values():
        for each in worker.replicas:
            ready = each.state is ReplicaState.READY
            if ready and each.revision in wanted and each.key not in keys:
                yield ReplicaPlacement(
                    key=each.key,
                    model=each.model,
                    version=each.version,
                    revision=each.revision,
                    worker=worker.worker,
                    device=each.device,
                    duty=each.duty,
                )


def is_premature(world: World, unknown: Collection[str]) -> bool:
    """Whether nothing may be written into an empty store yet, as something runs, or may run.

    Workers do not believe a store that was emptied; what is written they would go by, and end what
    it does not name.

    Args:
        unknown: models of which nothing can be decided yet.
    """
    if world.deployment.serial or not unknown:
        return False
    replicas = [each for worker in world.workers for each in worker.replicas]
    if any(each.model in unknown and each.state is ReplicaState.READY for each in replicas):
        return True
    return world.settling and not world.workers
