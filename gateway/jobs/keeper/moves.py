"""Which queues of jobs must move, because their revision is not served any more; pure.

A queue that holds something is moved once this gateway has seen it unserved for a while: a gateway
that has not heard yet of a new revision must not move its jobs back, nor fail those that are pinned
to it. Where a model has no route at all, or none that takes jobs, its jobs stay: it may be an
outage of the registry, or somebody's decision that will be taken back, and their ttl bounds it.

Invariants: no queue of a served revision moves; what moves goes to a version that takes jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.shared.wire.records import record

Queue: TypeAlias = tuple[str, str]
"""A model and a revision."""


@record
class Move:
    """A queue that must move.

    Attributes:
        model, from_revision: of the queue.
        to_revision, to_version: who takes the jobs of versions that are gone.
        served: revisions that take jobs, by version.
    """

    model: str
    from_revision: str
    to_revision: str
    to_version: str
    served: Mapping[str, str]


class Unserved:
    """Queues without anybody to serve them, and since when.

    Args:
        settle_s: how long a queue must be unserved before it moves.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[Queue, float] = {}

    def __repr__(self) -> str:
        return f"<Unserved {sorted(self._since)}>"

    def look(
        self, queues: Iterable[Queue], routes: Mapping[str, ModelRoute], now: float
    ) -> list[Move]:
        """The moves that are due.

        Args:
            queues: those that hold something.
            routes: by model.
            now: monotonic seconds.
        """
        since, moves = {}, []
        for queue in queues:
            move = _move_of(queue, routes)
            if move is None:
                continue
            since[queue] = self._since.get(queue, now)
            if now - since[queue] >= self._settle_s:
                moves.append(move)
        self._since = since
        return moves


def _move_of(queue: Queue, routes: Mapping[str, ModelRoute]) -> Move | None:
    model, revision = queue
    route = routes.get(model)
    if route is None or any(version.revision == revision for version in route.versions):
        return None
    takers = [version for version in route.versions if version.jobs != "off"]
    successor = _default(takers)
    if successor is None:
        return None
    served = {version.version: version.revision for version in takers}
    return Move(model, revision, successor.revision, successor.version, served)


def _default(takers: Iterable[VersionRoute]) -> VersionRoute | None:
    """The version that answers who pins none, as in `penstock.gateway.routing.traffic`."""
    return next((version for version in takers if version.weight > 0), None)
