"""What is to be done for the jobs in the store, by what it holds; pure.

All gateways do it all, which is safe: the scripts do each thing once. To look costs the store one
small read, and what is not needed is not done, so a system without jobs costs nothing else. That
matters for `reclaim` above all: it writes whenever it runs, and a server that puts each write on
its disk pays for that.

Before leases are reclaimed for the first time after a pause there is a grace (docs/jobs.md), so it
does no harm to begin with it only once there are leases.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from penstock.gateway.jobs.keeper.backlog import Sample
from penstock.shared.contracts.routing import ModelRoute
from penstock.shared.jobs.answers import ModelStats, StoreStats
from penstock.shared.jobs.record import HELD, JobState
from penstock.shared.jobs.totals import ModelTotals


class Chore(StrEnum):
    """Something to be done now and then."""

    RECLAIM = "reclaim"
    EXPIRE = "expire"
    TOTALS = "totals"


def due(stats: StoreStats, since_totals_s: float, totals_s: float) -> list[Chore]:
    """What is to be done now.

    Args:
        stats: what the store holds.
        since_totals_s: how long ago totals were read.
        totals_s: how often they are to be.
    """
    needed = {
        Chore.RECLAIM: any(stats.states[state] for state in HELD),
        Chore.EXPIRE: stats.states[JobState.QUEUED] > 0,
        Chore.TOTALS: bool(stats.models) and since_totals_s >= totals_s,
    }
    return [chore for chore, is_needed in needed.items() if is_needed]


def samples(
    stats: StoreStats,
    totals: Mapping[str, ModelTotals],
    routes: Mapping[str, ModelRoute],
    ready: Mapping[str, int],
) -> dict[str, Sample]:
    """What the backlog of each model is learned from.

    Args:
        stats: what the store holds.
        totals: by model; models that came since are left out.
        routes: by model.
        ready: replicas that are ready, by revision.
    """
    return {
        model: _sample(held, totals[model], _replicas(routes.get(model), ready))
        for model, held in stats.models.items()
        if model in totals
    }


def _sample(held: ModelStats, totals: ModelTotals, replicas: int) -> Sample:
    running = totals.spent[JobState.RUNNING]
    return Sample(
        waiting=held.queued,
        in_flight=held.running + held.canceling,
        ended=running.count,
        run_s=running.total_s,
        replicas=replicas,
    )


def _replicas(route: ModelRoute | None, ready: Mapping[str, int]) -> int:
    versions = route.versions if route is not None else ()
    return sum(ready.get(version.revision, 0) for version in versions if version.jobs != "off")
