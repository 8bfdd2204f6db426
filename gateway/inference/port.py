"""What the protocols in front of the service need of it.

`penstock.gateway.inference.service` implements it, and so do the fakes that tests have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from penstock.gateway.inference.types import (
    DeployedModel,
    InferenceAnswer,
    InferenceCall,
    ModelMetadata,
)
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.contracts.routing import VersionRoute

CallOutcome: TypeAlias = InferenceAnswer | PenstockError
"""What a call comes to."""


class Inference(Protocol):
    """See the module's docstring."""

    def why_not_ready(self) -> str:
        """Why not, for people; "" if routing is known, the gateway is not draining and enough
        models are ready."""
        ...

    def model_ready(self, model: str, version: str | None) -> bool:
        """Whether a replica can take the model's (version's) calls now, or its jobs if it takes no
        calls; raises if it is unknown."""
        ...

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """What the model takes and gives.

        Raises:
            PenstockError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, or NO_READY_REPLICA while no replica
                has announced its interface yet.
        """
        ...

    def route(self, model: str, version: str | None) -> VersionRoute:
        """The version that a call or a job of now goes to.

        Raises:
            PenstockError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, or NO_READY_REPLICA for a model of
                which nothing can be reached now.
        """
        ...

    def deployed_models(self) -> tuple[DeployedModel, ...]:
        """Every deployed model, by name."""
        ...

    async def infer(self, call: InferenceCall) -> InferenceAnswer:
        """Run a call to its end. Cancelling the awaiting task cancels the call.

        Raises:
            PenstockError: with any code that says how the call failed.
        """
        ...

    def submit(self, call: InferenceCall, on_outcome: Callable[[CallOutcome], None]) -> int:
        """Start a call, named by a number; `on_outcome` is called once, unless it is cancelled.

        Raises:
            PenstockError: if the call is not accepted; then `on_outcome` is never called.
        """
        ...

    def cancel(self, call_id: int) -> None:
        """Give a call up; its outcome is not told any more."""
        ...
