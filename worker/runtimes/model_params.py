"""What pyfunc models are given beside their inputs, and how they and MLflow refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.exceptions import MlflowException

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Parameters
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.session.outcomes import FailureKind

IGNORED_NAMED_MAX = 100
"""Names of unknown parameters that are logged, once each; clients invent them."""

SERVER_ERROR = 500
"""The lowest status that blames the server."""

log = get_logger("runtimes")


class ModelParams:
    """MLflow's `params` of requests to one model."""

    def __init__(self, interface: ModelInterface) -> None:
        self._known = {spec.name for spec in interface.parameters}
        self._ignored: set[str] = set()

    def of(self, parameters: Parameters) -> dict[str, Any] | None:
        """Those that the signature knows. MLflow ignores others too, with a warning each time."""
        for name, _ in parameters:
            known = name in self._known or name in self._ignored
            if not known and len(self._ignored) < IGNORED_NAMED_MAX:
                self._ignored.add(name)
                log.warning("ignored a parameter that the signature does not name", name=name)
        return {name: value for name, value in parameters if name in self._known} or None


@contextmanager
def as_refusals() -> Iterator[None]:
    """What MLflow's own server answers with a status of 400 to 499: its enforcement of schemas.

    A model may raise the same, and then means it.
    """
    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() >= SERVER_ERROR:
            raise
        raise ExecutionError(FailureKind.REFUSED, error.message) from error
