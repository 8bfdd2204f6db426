"""Bodies of MLflow's scoring server for graphs, which MLflow itself did not load here.

MLflow's wrapper of the flavor is put around what runs here already, so that its enforcement of the
signature, and its form of answers, are its own. It is imported with the first such body: a replica
of a graph needs nothing of MLflow otherwise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.shared.contracts.deployment import Scoring
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import Buffer, Tensor
from penstock.worker.runtimes.base import BodyScorer
from penstock.worker.runtimes.mlflow_model import MLmodel


def scoring_of(mlmodel: MLmodel | None) -> Scoring:
    """Which bodies a graph's replicas can read: those that its gateway does not, or none."""
    known = mlmodel is not None and "python_function" in mlmodel.flavors
    return "rest" if known and importlib.util.find_spec("mlflow") is not None else ""


class GraphScorer:
    """See the module's docstring.

    Args:
        folder: of the model.
        wrapped: makes MLflow's wrapper around what runs here.
        device: on which that runs.
    """

    def __init__(self, folder: Path, wrapped: Callable[[], Any], device: str) -> None:
        self._folder = folder
        self._wrapped = wrapped
        self._device = device
        self._scorer: BodyScorer | None = None

    def score(self, body: Buffer, parameters: Parameters) -> Tensor:
        """As `penstock.worker.runtimes.scoring.scorer.Scorer` does it."""
        if self._scorer is None:
            self._scorer = self._made()
        return self._scorer.score(body, parameters)

    def _made(self) -> BodyScorer:
        from mlflow.models import Model  # noqa: PLC0415 - see the module's docstring
        from mlflow.pyfunc import PyFuncModel  # noqa: PLC0415

        from penstock.worker.runtimes.scoring.scorer import Scorer  # noqa: PLC0415

        meta = Model.load(str(self._folder))
        return Scorer(PyFuncModel(model_meta=meta, model_impl=self._wrapped()), self._device)
