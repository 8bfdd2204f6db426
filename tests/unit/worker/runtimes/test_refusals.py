"""What MLflow's own server makes of dates, or refuses, so does a replica."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pytest
from fastapi import FastAPI
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.scoring_server import init
from mlflow.types import ColSpec, Schema

from penstock.shared.contracts.errors import ErrorCode
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.runtimes.mlflow_model import read_mlmodel
from penstock.worker.runtimes.pyfunc import PyfuncRuntime, load_pyfunc
from penstock.worker.session.outcomes import REFUSAL_CHARS_MAX, Failed, FailureKind
from tests.support.mlflow_models import NUMBERS, python_model

pytestmark = pytest.mark.costly

DATES: Sequence[list[str]] = [
    ["2024-01-02T03:04:05"],
    ["2024-01-02"],
    ["2024-01-02 03:04:05.123456789"],
    ["01/02/2024"],
    ["2024-01-02", ""],
    [""],
    ["x"],
    ["0001-01-01"],
    ["9999-12-31"],
    ["2024-01-02T03:04:05Z"],
    ["2024-01-02T03:04:05+09:00"],
    ["2024-01-02T03:04:05Z", "2024-01-02T03:04:05+09:00"],
    ["2024-01-02T03:04:05", "2024-01-02T03:04:05Z"],
]


def loaded(folder: Path) -> PyfuncRuntime:
    runtime = load_pyfunc(
        folder,
        read_mlmodel(folder),
        max_batch_size=8,
        device="cpu",
        threads=1,
        allow_cpu_fallback=False,
        may_execute=False,
    )
    assert isinstance(runtime, PyfuncRuntime)
    return runtime


def telling(folder: Path) -> Path:
    """A text for each date of a column, as the model sees it."""

    def predict(frame: Any, params: Any) -> Any:
        return {"seen": np.array([f"{frame['d'].dtype} {each}" for each in frame["d"]])}

    signature = ModelSignature(
        Schema([ColSpec("datetime", "d")]), Schema([ColSpec("string", "seen")])
    )
    return python_model(folder, predict, signature)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return telling(tmp_path_factory.mktemp("dates") / "m")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> FastAPI:
    app: FastAPI = init(mlflow.pyfunc.load_model(str(folder)))
    return app


@pytest.fixture(scope="module")
def ours(folder: Path) -> PyfuncRuntime:
    return loaded(folder)


@pytest.mark.parametrize("dates", DATES, ids=repr)
async def test_dates_are_what_mlflows_server_makes_of_them(
    ours: PyfuncRuntime, theirs: FastAPI, dates: list[str]
) -> None:
    body = {"dataframe_split": {"columns": ["d"], "data": [[date] for date in dates]}}
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(theirs), base_url="http://mlflow"
    ) as client:
        answer = await client.post("/invocations", content=json.dumps(body), headers=headers)
    inputs = {"d": np.array([date.encode() for date in dates], object)}
    if answer.status_code == 200:
        (seen,) = ours.execute(inputs)
        assert [text.decode() for text in seen] == answer.json()["predictions"]["seen"]
        return
    assert answer.status_code == 400
    with pytest.raises(ExecutionError) as refused:
        ours.execute(inputs)
    assert refused.value.kind is FailureKind.REFUSED
    assert str(refused.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(INVALID_PARAMETER_VALUE, FailureKind.REFUSED), (INTERNAL_ERROR, FailureKind.INPUT)],
)
def test_an_exception_of_mlflows_keeps_its_meaning(
    tmp_path: Path, code: int, kind: FailureKind
) -> None:
    def predict(x: Any, params: Any) -> Any:
        raise MlflowException("it is too odd", error_code=code)

    runtime = loaded(python_model(tmp_path / "m", predict, NUMBERS))
    with pytest.raises(ExecutionError, match="it is too odd") as failed:
        runtime.execute({"input-0": np.array([1.0])})
    assert failed.value.kind is kind


def test_a_refusal_is_the_clients_and_says_why() -> None:
    reason = "Failed to enforce schema:\n" + "x " * REFUSAL_CHARS_MAX
    failure = Failed(FailureKind.REFUSED, 0.1, reason).failure("m", "1")
    assert failure.code is ErrorCode.INVALID_INPUT
    assert failure.message.startswith(
        "model 'm' version 1 does not take this request: Failed to enforce schema: x x"
    )
    assert len(failure.message) < REFUSAL_CHARS_MAX + 100
