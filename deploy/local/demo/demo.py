"""`python -m penstock.deploy.local.demo.demo`: log the demo's models to MLflow.

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
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from onnx.reference import ReferenceEvaluator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from penstock.deploy.local.cli.curl_examples import DEMO_INPUT, DEMO_MODEL
from penstock.deploy.local.demo import digits_sklearn
from penstock.deploy.local.demo.digits import Digits, load_split
from penstock.deploy.local.demo.digits_onnx import PIXEL_MAX, classifier
from penstock.deploy.local.demo.versions import log_versions
from penstock.shared.process.lifecycle import die_with_parent

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
    log_versions(client, DEMO_MODEL, {"1": logistic_regression, "2": neural_network}, digits)
    log_versions(client, digits_sklearn.MODEL, {"1": digits_sklearn.log}, digits)
    if importlib.util.find_spec("torch") is not None:
        digits_torch = importlib.import_module("penstock.deploy.local.demo.digits_torch")
        log_versions(client, digits_torch.MODEL, {"1": digits_torch.log}, digits)


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
