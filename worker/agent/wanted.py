"""What the control plane wants of one worker, read out of its documents. Pure.

Three rules guard replicas that serve against a control plane that lost its memory, or sight:
- `Wanted` never takes in a deployment that was never written (serial 0) after a written one: that
  is an emptied store, and registry_sync will write again.
- `GatewayBook` keeps a gateway for a while after its report vanished: a replica that dials a dead
  gateway wastes little, one that leaves a live gateway loses its calls.
- A placement that was decided without knowing of this worker takes nothing from it: it had been cut
  off, and will be seen again in a moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    Duty,
    GatewayReport,
    Phase,
    ReplicaPlacement,
    ReplicaSettings,
    RevisionDeployment,
)
from penstock.shared.contracts.routing import ModelRoute, RoutingTable
from penstock.worker.control.messages import GatewayAddress

GATEWAY_KEPT_S = 30.0
"""How long replicas keep dialling a gateway that no longer reports itself."""


@dataclass(frozen=True)
class Assignment:
    """One replica that this worker is to run.

    Attributes:
        key: the place; at most one process lives in it.
        device: as placed: `auto`, `cpu` or `cuda:N`.
        attempt: the failures that registry_sync had counted when it placed this; a change of it
            asks for another try, even if the agent missed that the placement was gone meanwhile.
        routed: calls reach it, or are to reach it again: it goes before others.
        duty: what it takes.
    """

    key: str
    model: str
    version: str
    revision: str
    device: str
    source: ArtifactSource
    manifest: ArtifactManifest
    settings: ReplicaSettings
    attempt: int = 0
    routed: bool = False
    duty: Duty = "both"

    def same_replica(self, other: Assignment) -> bool:
        """Whether a process that runs for `other` is what this asks for."""
        return (self.key, self.model, self.version, self.revision, self.device, self.duty) == (
            other.key,
            other.model,
            other.version,
            other.revision,
            other.device,
            other.duty,
        )


def assignments_of(
    worker: str, deployment: Deployment, routing: RoutingTable
) -> tuple[Assignment, ...]:
    """What `worker` is to run, by key; a placement of an unknown revision is none."""
    routed = {
        version.revision for route in routing.models.values() for version in route.versions
    } | {name for name, revision in deployment.revisions.items() if revision.phase is Phase.SERVING}
    assignments = {
        place.key: _assignment(place, revision, place.revision in routed)
        for place in deployment.placement
        if place.worker == worker
        and (revision := deployment.revisions.get(place.revision)) is not None
    }
    return tuple(assignments[key] for key in sorted(assignments))


def _assignment(place: ReplicaPlacement, revision: RevisionDeployment, routed: bool) -> Assignment:
    return Assignment(
        key=place.key,
        model=place.model,
        version=place.version,
        revision=place.revision,
        device=place.device,
        source=revision.source,
        manifest=revision.manifest,
        settings=revision.settings,
        attempt=revision.failures,
        routed=routed,
        duty=place.duty,
    )


def local_slots(assignments: Iterable[Assignment]) -> int:
    """How many replicas share this machine when no swap is on.

    The sum over models of the largest replica count of any revision, so that a surge swap, which
    runs two revisions for a while, does not halve the threads of the new one for its whole life.
    """
    largest: dict[str, int] = {}
    for (model, _), count in Counter((one.model, one.revision) for one in assignments).items():
        largest[model] = max(largest.get(model, 0), count)
    return sum(largest.values())


def threads_for(assignment: Assignment, cores: int, slots: int) -> int:
    """Threads of a replica's runtime: as set, or its share of `cores` among `slots` replicas."""
    return assignment.settings.threads or max(1, cores // max(1, slots))


def device_for(assignment: Assignment, gpus: Sequence[str], taken: Iterable[str]) -> str:
    """The device of a replica: as placed, and for `auto` the GPU with the fewest replicas.

    Args:
        gpus: `cuda:N` for each GPU of this machine.
        taken: the devices of the replicas that run, each as often as it is used.
    """
    if assignment.device != "auto":
        return assignment.device
    if not gpus:
        return "cpu"
    uses = Counter(taken)
    return min(gpus, key=lambda gpu: uses[gpu])


class GatewayBook:
    """The gateways that replicas dial."""

    def __init__(self, kept_s: float = GATEWAY_KEPT_S) -> None:
        self._kept_s = kept_s
        self._missing_since: dict[str, float] = {}
        self._endpoints: dict[str, str] = {}

    @property
    def addresses(self) -> tuple[GatewayAddress, ...]:
        """Where to dial, by gateway."""
        return tuple(
            GatewayAddress(gateway=name, endpoint=endpoint)
            for name, endpoint in sorted(self._endpoints.items())
        )

    def update(self, reports: Iterable[GatewayReport], now: float) -> bool:
        """Take in the gateways that report themselves; True if the addresses changed.

        A gateway is missing from the first read without it, not from the last one with it: while
        the store could not be read, nothing was missing.
        """
        before = dict(self._endpoints)
        reported = {report.gateway: report.endpoint for report in reports}
        self._endpoints.update(reported)
        self._missing_since = {
            name: self._missing_since.get(name, now)
            for name in self._endpoints
            if name not in reported
        }
        for name, since in self._missing_since.items():
            if now - since >= self._kept_s:
                del self._endpoints[name]
        return self._endpoints != before


class Wanted:
    """The newest documents that were read, and what they mean for one worker."""

    def __init__(self, worker: str, incarnation: str) -> None:
        self._worker = worker
        self._incarnation = incarnation
        self._deployment: Deployment | None = None
        self._placed: tuple[ReplicaPlacement, ...] = ()  # as said by who knew of this life
        self._routes: dict[str, ModelRoute] = {}

    @property
    def serial(self) -> int:
        """Serial of the deployment that was taken in last; 0: none yet."""
        return self._deployment.serial if self._deployment is not None else 0

    @property
    def digests(self) -> frozenset[str]:
        """Digests of all artifacts that desired state names, placed here or not."""
        if self._deployment is None:
            return frozenset()
        return frozenset(one.manifest.digest for one in self._deployment.revisions.values())

    def take_deployment(self, deployment: Deployment) -> None:
        """Take in the deployment that was read, unless an emptied store gave it."""
        if not deployment.serial and self.serial:
            return
        own = tuple(place for place in deployment.placement if place.worker == self._worker)
        if deployment.workers is None or self._incarnation in deployment.workers:
            self._placed = own
        keys = {place.key for place in own}
        kept = tuple(place for place in self._placed if place.key not in keys)
        self._deployment = deployment.model_copy(update={"placement": own + kept})

    def take_routing(self, table: RoutingTable) -> tuple[ModelRoute, ...]:
        """Take in the routing table that was read; the routes that are newer than before."""
        newer = tuple(
            route
            for model, route in sorted(table.models.items())
            if model not in self._routes or route.generation > self._routes[model].generation
        )
        # Models that left the table leave here too, so that this does not grow for ever; an emptied
        # table is an emptied store.
        if table.generation:
            self._routes = {
                model: route for model, route in self._routes.items() if model in table.models
            }
        self._routes.update({route.model: route for route in newer})
        return newer

    def route(self, model: str) -> ModelRoute | None:
        """The newest route of a model, or None if none is known."""
        return self._routes.get(model)

    def assignments(self) -> tuple[Assignment, ...] | None:
        """What this worker is to run; None while no deployment was ever read."""
        if self._deployment is None:
            return None
        routing = RoutingTable(models=self._routes)
        return assignments_of(self._worker, self._deployment, routing)
