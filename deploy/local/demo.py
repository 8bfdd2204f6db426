"""`python -m deploy.local.demo`: log the demo's models to MLflow.

    digits           ONNX, two versions to swap between
    digits-sklearn   scikit-learn
    digits-torch     PyTorch, where torch is installed

Idempotent: each step looks whether it was done already, and once all are, a tag on the model says
so and nothing is touched again, whatever operators did to versions and tags since.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from onnx.reference import ReferenceEvaluator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from deploy.local import digits_sklearn
from deploy.local.curl_examples import DEMO_INPUT, DEMO_MODEL
from deploy.local.digits import Digits, load_split
from deploy.local.digits_onnx import PIXEL_MAX, classifier
from shared.lifecycle import die_with_parent

DEMO_TAG = "demo"
"""On the registered model: `logging` while this module is at work, then `complete`."""

EXPERIMENT = "penstock-demo"
TOLERANCE = 1e-4
"""float32 in the graph, float64 in scikit-learn."""

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 64), DEMO_INPUT)]),
    outputs=Schema(
        [
            TensorSpec(np.dtype(np.int64), (-1,), "label"),
            TensorSpec(np.dtype(np.float32), (-1, 10), "probabilities"),
        ]
    ),
)


def log_demo(mlflow_uri: str) -> None:
    """Log what is missing of the demo."""
    mlflow.set_tracking_uri(mlflow_uri)
    client = MlflowClient()
    digits = load_split()
    _log_model(client, DEMO_MODEL, {"1": logistic_regression, "2": neural_network}, digits)
    _log_model(client, digits_sklearn.MODEL, {"1": digits_sklearn.log}, digits)
    if importlib.util.find_spec("torch") is not None:
        digits_torch = importlib.import_module("deploy.local.digits_torch")
        _log_model(client, digits_torch.MODEL, {"1": digits_torch.log}, digits)


def _log_model(
    client: MlflowClient, name: str, log: Mapping[str, Callable[[Digits], None]], digits: Digits
) -> None:
    """Log the versions of a model that are missing, and have version 1 served."""
    if _state(client, name) == "complete":
        print(f"{name} is there already")
        return
    mlflow.set_experiment(EXPERIMENT)
    present = {str(each.version) for each in client.search_model_versions(f"name='{name}'")}
    for version, log_version in log.items():
        if version not in present:
            log_version(digits)
            print(f"logged {name} version {version}")
    client.set_model_version_tag(name, "1", "penstock.role", "stable")
    client.set_registered_model_tag(name, DEMO_TAG, "complete")


def logistic_regression(digits: Digits) -> None:
    """Version 1 of the ONNX model."""
    model = LogisticRegression(max_iter=1000)
    model.fit(digits.train_images / PIXEL_MAX, digits.train_labels)
    graph = classifier([(model.coef_.T, model.intercept_)], "digits_logistic_regression")
    _log_graph(_checked(graph, model, digits))


def neural_network(digits: Digits) -> None:
    """Version 2 of the ONNX model: two hidden layers."""
    model = MLPClassifier(hidden_layer_sizes=(64, 64), max_iter=200, random_state=0)
    model.fit(digits.train_images / PIXEL_MAX, digits.train_labels)
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    graph = classifier(layers, "digits_neural_network")
    _log_graph(_checked(graph, model, digits))


def _checked(graph: Any, model: Any, digits: Digits) -> Any:
    """The graph, once it was found to say what scikit-learn says on every test image."""
    labels, probabilities = ReferenceEvaluator(graph).run(
        ["label", "probabilities"], {DEMO_INPUT: digits.test_images}
    )
    scaled = digits.test_images / PIXEL_MAX
    expected = model.predict_proba(scaled)
    if not np.allclose(probabilities, expected, atol=TOLERANCE):
        raise SystemExit("the ONNX graph's probabilities differ from scikit-learn's")
    if not np.array_equal(labels, model.predict(scaled)):
        raise SystemExit("the ONNX graph's labels differ from scikit-learn's")
    accuracy = float(np.mean(labels == digits.test_labels))
    print(f"{graph.graph.name}: accuracy {accuracy:.3f} on {len(labels)} test images")
    return graph


def _log_graph(graph: Any) -> None:
    mlflow.onnx.log_model(
        graph,
        name=DEMO_MODEL,
        signature=SIGNATURE,
        registered_model_name=DEMO_MODEL,
        pip_requirements=[],  # Penstock needs none; finding out would take MLflow a minute
    )


def _state(client: MlflowClient, name: str) -> str:
    """A model's state; creates the model if there is none."""
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, tags={DEMO_TAG: "logging"})
        return "logging"
    state = model.tags.get(DEMO_TAG)
    if state is None:
        raise SystemExit(f"MLflow has a model {name!r} that is not the demo's")
    return str(state)


def main() -> None:
    """The command line."""
    die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow-uri", default=os.environ.get("MLFLOW_TRACKING_URI"))
    uri = parser.parse_args().mlflow_uri
    if not uri:
        parser.error("--mlflow-uri or MLFLOW_TRACKING_URI is needed")
    log_demo(uri)


if __name__ == "__main__":
    main()
