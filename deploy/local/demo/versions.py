"""The demo's models in MLflow: each version is logged once, whatever operators do afterwards.

A tag on the model says how far its demo is. Once it is complete nothing is touched again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from penstock.deploy.local.demo.digits import Digits
from penstock.deploy.local.demo.tags import role_tag

DEMO_TAG = "demo"
"""On the registered model: `logging` while the demo is at work, then `complete`."""

EXPERIMENT = "penstock-demo"


def log_versions(
    client: MlflowClient, name: str, log: Mapping[str, Callable[[Digits], None]], digits: Digits
) -> None:
    """Log the versions of a model that are missing, and have version 1 served.

    Raises:
        MlflowException: if MLflow does not do it.
        SystemExit: if it has a model of that name which is not the demo's.
    """
    if _state(client, name) == "complete":
        print(f"{name} is there already")
        return
    mlflow.set_experiment(EXPERIMENT)
    present = {str(each.version) for each in client.search_model_versions(f"name='{name}'")}
    for version, log_version in log.items():
        if version not in present:
            log_version(digits)
            print(f"logged {name} version {version}")
    client.set_model_version_tag(name, "1", role_tag(os.environ), "stable")
    client.set_registered_model_tag(name, DEMO_TAG, "complete")


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
