"""MLflow's own deployments client deploys to a real system, from a real MLflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from tests.contract.registries import mlflow_server
from tests.e2e.folder import QUICK
from tests.e2e.system import LocalSystem

pytestmark = [
    pytest.mark.costly,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("default"),
]

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 0.5]})


def register(scale: float) -> None:
    """A version of `sums` that answers so many times `a + b`."""
    model = LinearRegression().fit(FRAME, scale * FRAME.sum(axis=1))
    signature = infer_signature(FRAME, model.predict(FRAME))
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            input_example=FRAME,
            pip_requirements=[],
            serialization_format="cloudpickle",
            registered_model_name="sums",
        )


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSystem]:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with mlflow_server(folder) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)  # other tests of this process may have named theirs
        mlflow.set_registry_uri(uri)
        for scale in (1.0, 10.0):
            register(scale)
        system = LocalSystem(tmp_path / "data", "--mlflow-uri", uri)
        system.environment = dict(QUICK)
        system.start()
        yield system
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(before)
        assert system.stop() == 0, system.output


def predictions(client: Any, inputs: Any) -> Any:
    return client.predict("sums", inputs).get_predictions("ndarray")


def test_a_model_is_deployed_updated_called_and_ended(system: LocalSystem) -> None:
    target = system.url.replace("http://", "penstock://")
    client: Any = get_deploy_client(target)
    sums = FRAME.sum(axis=1).to_numpy()
    assert client.list_deployments() == []
    with pytest.raises(MlflowException, match="no version of 'sums' serves"):
        client.get_deployment("sums")
    with pytest.raises(MlflowException, match="a deployment has the name of its model"):
        client.create_deployment("other", "models:/sums/1")

    created = client.create_deployment("sums", "models:/sums/2", config={"timeout_s": 120})
    assert (created["name"], created["versions"][0]) == ("sums", "2")
    assert np.allclose(predictions(client, FRAME), 10 * sums)
    columns = {name: FRAME[name].to_numpy() for name in FRAME}
    assert np.allclose(predictions(client, columns), 10 * sums)
    records = {"dataframe_records": FRAME.to_dict(orient="records")}
    assert np.allclose(predictions(client, records), 10 * sums)
    with pytest.raises(MlflowException, match="already: update it") as exists:
        client.create_deployment("sums", "models:/sums/2")
    assert exists.value.error_code == "RESOURCE_ALREADY_EXISTS"
    with pytest.raises(MlflowException, match="HTTP 400") as refused:
        client.predict("sums", {"dataframe_records": [{"a": "x", "b": 1.0}]})
    assert refused.value.error_code == "BAD_REQUEST"

    client.update_deployment("sums", "models:/sums/1", config={"max_batch_size": 4})
    assert np.allclose(predictions(client, FRAME), sums)  # a lower version came back
    assert [each["name"] for each in client.list_deployments()] == ["sums"]

    by_command = [sys.executable, "-m", "mlflow", "deployments", "delete", "-t", target]
    for _ in range(2):  # no error if there is none
        subprocess.run(
            [*by_command, "--name", "sums"], check=True, capture_output=True, timeout=120
        )
    assert client.list_deployments() == []


def test_a_gateway_that_is_not_there_is_named() -> None:
    client: Any = get_deploy_client("penstock://127.0.0.1:9")
    with pytest.raises(MlflowException, match=r"no gateway answers at http://127\.0\.0\.1:9"):
        client.list_deployments()
