"""The demo's model `digits-sklearn`: a pipeline of scikit-learn's, served as MLflow logged it."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from penstock.deploy.local.demo.digits import Digits

MODEL = "digits-sklearn"

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float64), (-1, 64))]),
    outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,))]),
)


def log(digits: Digits) -> None:
    """Train and log it."""
    pipeline: Any = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=1000))
    pipeline.fit(digits.train_images.astype(np.float64), digits.train_labels)
    labels = pipeline.predict(digits.test_images.astype(np.float64))
    accuracy = float(np.mean(labels == digits.test_labels))
    print(f"{MODEL}: accuracy {accuracy:.3f} on {len(labels)} test images")
    mlflow.sklearn.log_model(
        pipeline,
        name=MODEL,
        signature=SIGNATURE,
        registered_model_name=MODEL,
        pip_requirements=[],  # as for the others: finding out would take MLflow a minute
    )
