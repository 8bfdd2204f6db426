"""The routing table: which version of a model answers, as registry_sync decides and gateways obey.

A route carries the generation in which it last changed. Generations only grow, and start from the
wall clock in milliseconds when a system is first set up, so that a route made after a loss of all
state is still newer than any route that a gateway or a replica remembers. That lets routes be
learned from any source, the table in Redis or the replicas themselves, by one rule: the higher
generation wins.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from penstock.shared.contracts.document import Document

HedgePolicy: TypeAlias = Literal["auto", "off"] | float
"""As an operator sets it; a number is a fixed delay in milliseconds."""


JobsPolicy: TypeAlias = Literal["shared", "only", "off"]
"""What replicas of a version are for: calls and jobs, jobs alone, or calls alone."""

HEDGE_BUDGET = 0.05
"""Second attempts where an operator says nothing, as a share of all calls: what a 95th percentile
asks for."""


class VersionRoute(Document):
    """A version that calls may reach.

    Attributes:
        version: the registry's version number, as clients name it.
        revision: version, artifacts and replica settings together; replicas announce theirs.
        weight: share of unpinned calls; 0 for a version that is reached by pinning only.
        timeout_ms: deadline of a call that states none, or None for the gateway's default.
        queue_timeout_ms: longest that a call may wait before it is executed; None: as long as its
            deadline allows.
        hedge: when a slow call gets a second attempt: `auto`, `off`, or after so many milliseconds.
        hedge_budget: second attempts, as a share of all calls.
        jobs: whether it takes calls, jobs or both.
    """

    version: str
    revision: str
    weight: int = 100
    timeout_ms: float | None = None
    queue_timeout_ms: float | None = None
    hedge: HedgePolicy = "auto"
    hedge_budget: float = HEDGE_BUDGET
    jobs: JobsPolicy = "shared"


class ModelRoute(Document):
    """How calls of one model find a version.

    Attributes:
        model: the registered model's name.
        generation: when this route last changed.
        versions: what can be reached; empty while nothing is (see `reason`).
        reason: why nothing can be reached, for the caller of a 503.
        hopeless: whether that stays so until the operator changes something.
    """

    model: str
    generation: int
    versions: tuple[VersionRoute, ...] = ()
    reason: str = ""
    hopeless: bool = False

    def version(self, version: str) -> VersionRoute | None:
        """The route of one version, or None if it cannot be reached."""
        return next((route for route in self.versions if route.version == version), None)


class RoutingTable(Document):
    """All routes.

    Attributes:
        generation: grows with every change of any route; gateways acknowledge it.
        models: routes by model name; a model that is not here is unknown (404).
    """

    generation: int = 0
    models: dict[str, ModelRoute] = Field(default_factory=dict)
