"""The generative demo model: logged to MLflow's own server, loaded by MLflow alone, and served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from penstock.deploy.local.demo.diffusion import MODEL
from penstock.gateway.inference.types import InferenceCall
from penstock.registry_sync.sources.mlflow_source import MlflowSource
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from tests.e2e.system import penstock
from tests.support.data_plane import DataPlane, data_plane

TRAINING_STEPS = 200

ALONE = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("deploy", "gateway", "registry_sync", "shared", "worker"):
            raise ModuleNotFoundError("the model imports " + name)

sys.meta_path.insert(0, Refuse())
import mlflow.pyfunc
import pandas

model = mlflow.pyfunc.load_model(sys.argv[1])
row = pandas.DataFrame({"digit": [3], "steps": [5], "seed": [1]})
streamed = list(model.predict_stream(row))
assert len(streamed) == 10, streamed
assert streamed[0] == {"progress": 0.2, "message": "step 1 of 5"}, streamed[0]
assert (streamed[-1]["image"] == model.predict(row)["image"]).all()
print("alone", streamed[-1]["image"].shape)
"""


@pytest.fixture(scope="module")
def logged(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the model, as `penstock demo-diffusion` logged it; gone from MLflow after."""
    arguments = ("--mlflow-uri", mlflow_uri, "--training-steps", str(TRAINING_STEPS))
    done = penstock("demo-diffusion", *arguments, timeout_s=240.0)
    assert done.returncode == 0, done.stderr
    assert "of its images are classified as the digit that was asked for" in done.stdout
    again = penstock("demo-diffusion", *arguments, timeout_s=120.0)
    assert again.stdout == f"{MODEL} is there already\n", again.stderr
    mlflow.set_tracking_uri(mlflow_uri)
    folder = tmp_path_factory.mktemp("logged")
    yield Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/1", dst_path=str(folder)))
    mlflow.MlflowClient().delete_registered_model(MODEL)


def test_it_is_tagged_to_be_served(logged: Path, mlflow_uri: str) -> None:
    (version,) = MlflowSource(mlflow_uri, ()).observe([])[MODEL].versions
    assert version.tags == {"penstock.role": "stable"}


def test_it_loads_without_our_packages(logged: Path, tmp_path: Path) -> None:
    paths = {"PYTHONPATH": "", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none.db"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ALONE, str(logged)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **paths},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alone (1, 8, 8)\n"


async def draw(plane: DataPlane, **row: int) -> Any:
    inputs = tuple(tensor_from_array(name, np.array([value])) for name, value in row.items())
    answer = await plane.service.infer(InferenceCall("m", None, inputs, timeout_s=60.0))
    return array_from_tensor(answer.outputs[0])


async def test_a_replica_serves_it(logged: Path) -> None:
    async with data_plane() as plane:
        await plane.join(logged)
        interface = plane.service.metadata("m", None).interface
        assert [spec.name for spec in interface.inputs if spec.optional] == ["steps", "seed"]
        assert interface.outputs[0].shape == (-1, 8, 8)
        image = await draw(plane, digit=3, steps=20, seed=1)
        assert image.shape == (1, 8, 8)
        assert image.dtype == np.float32
        assert (await draw(plane, digit=3, steps=20, seed=1) == image).all()
        assert (await draw(plane, digit=4)).shape == (1, 8, 8)
        with pytest.raises(PenstockError) as caught:
            await draw(plane, digit=11)
        assert caught.value.code is ErrorCode.MODEL_ERROR
