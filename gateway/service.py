"""Inference as a service, whatever protocol a request came by: the story of a call.

Previous stop of a request: `gateway.http.oip_routes`. Next: `gateway.dispatch`.
"""

from __future__ import annotations

from typing import Protocol

from gateway.calls import InferenceAnswer, InferenceCall, ModelMetadata


class Inference(Protocol):
    """What the protocols in front need of the service."""

    def ready(self) -> bool:
        """Whether routing is known, the gateway is not draining and enough models are ready."""
        ...

    def model_ready(self, model: str, version: str | None) -> bool:
        """Whether a replica of the model (version) can be called now; raises if it is unknown."""
        ...

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """What the model takes and gives.

        Raises:
            PenstockError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, or NO_READY_REPLICA while no replica
                has announced its interface yet.
        """
        ...

    async def infer(self, call: InferenceCall) -> InferenceAnswer:
        """Run a call to its end. Cancelling the awaiting task cancels the call.

        Raises:
            PenstockError: with any code that says how the call failed.
        """
        ...
