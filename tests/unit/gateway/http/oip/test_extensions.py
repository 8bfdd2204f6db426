"""Configuration, statistics and the repository's index over ASGI."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.inference.statistics import BATCH_SIZES_MAX, InferenceStatistics
from penstock.gateway.inference.types import DeployedModel
from penstock.shared.contracts.deployment import ParameterSpec
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.tensor_spec import TensorSpec
from tests.unit.gateway.http.fakes import (
    FakeInference,
    FakeModel,
    app_of,
    client_of,
    echo,
    interface,
    x_input,
)

INFER = "/v2/models/double/infer"


@pytest.fixture
def service() -> FakeInference:
    return FakeInference()


async def get(service: FakeInference, path: str) -> httpx.Response:
    async with client_of(app_of(service)) as client:
        return await client.get(path)


async def test_config_has_tritons_fields(service: FakeInference) -> None:
    for path in ("/v2/models/double/config", "/v2/models/double/versions/1/config"):
        assert (await get(service, path)).json() == {
            "name": "double",
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "version_policy": {"specific": {"versions": [2, 1]}},
            "max_batch_size": 8,
            "input": [
                {
                    "name": "x",
                    "data_type": "TYPE_FP32",
                    "dims": [4],
                    "format": "FORMAT_NONE",
                    "optional": False,
                }
            ],
            "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
            "parameters": {},
            "dynamic_batching": {
                "preserve_ordering": False,
                "priority_levels": 9,
                "default_priority_level": 5,
            },
        }
    assert (await get(service, "/v2/models/none/config")).status_code == 404
    assert (await get(service, "/v2/models/double/versions/7/config")).status_code == 404


async def test_config_of_columns_and_of_a_model_without_batches(service: FakeInference) -> None:
    texts = (await get(service, "/v2/models/texts/config")).json()
    assert [(each["data_type"], each["dims"]) for each in texts["input"]] == [
        ("TYPE_STRING", [1]),
        ("TYPE_INT64", [1]),
    ]
    assert texts["input"][0]["reshape"] == {"shape": []}
    optional = TensorSpec(name="z", datatype="BF16", shape=(2, -1), optional=True)
    whole = interface([optional]).model_copy(
        update={"parameters": (ParameterSpec(name="zoom", datatype="INT64"),), "platform": "own"}
    )
    service.models["whole"] = FakeModel(whole, echo, versions=("2", "beta"))
    config = (await get(service, "/v2/models/whole/config")).json()
    assert config["input"][0]["dims"] == [2, -1]
    assert (config["input"][0]["data_type"], config["input"][0]["optional"]) == ("TYPE_BF16", True)
    assert config["parameters"] == {"zoom": {"string_value": "INT64"}}
    assert config["version_policy"]["specific"]["versions"] == [2, "beta"]
    assert (config["backend"], "dynamic_batching" in config) == ("own", False)


async def test_statistics_count_by_model_and_version(service: FakeInference) -> None:
    two_rows = {"inputs": [x_input(shape=[2, 4], data=[1] * 8)]}
    async with client_of(app_of(service)) as client:
        for _ in range(3):
            await client.post(INFER, json=two_rows)
        await client.post("/v2/models/double/versions/1/infer", json={"inputs": [x_input()]})
        await client.post(INFER, json={})  # was no call
        service.failure = PenstockError(ErrorCode.MODEL_ERROR, "why")
        await client.post(INFER, json=two_rows)
        everything = (await client.get("/v2/models/stats")).json()["model_stats"]
        one = (await client.get("/v2/models/double/stats")).json()["model_stats"]
        first = (await client.get("/v2/models/double/versions/1/stats")).json()["model_stats"]
        assert (await client.get("/v2/models/none/stats")).status_code == 404
        assert (await client.get("/v2/models/double/versions/7/stats")).status_code == 404
    names = [(entry["name"], entry["version"]) for entry in everything]
    assert names == [(name, v) for name in ("double", "my model", "texts") for v in ("2", "1")]
    assert one == everything[:2]
    assert first == everything[1:2]
    counted = one[0]
    assert counted["last_inference"] > 1_600_000_000_000
    assert (counted["inference_count"], counted["execution_count"]) == (6, 2)  # 3 times 2 of 4
    stats = counted["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 1)
    assert stats["queue"] == {"count": 3, "ns": 3_000_000}
    assert stats["compute_infer"] == {"count": 3, "ns": 6_000_000}
    assert stats["compute_input"]["ns"] > 0
    assert stats["success"]["ns"] > stats["compute_input"]["ns"] + stats["compute_output"]["ns"]
    (batch,) = counted["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]) == (4, {"count": 2, "ns": 3_000_000})
    assert everything[2]["inference_stats"]["success"] == {"count": 0, "ns": 0}


def count(statistics: InferenceStatistics, version: str, batch_rows: int) -> None:
    statistics.succeeded("m", version, 1, batch_rows, 1.0, 0.1, 0.1, 0.1, 0.1, 1)


def test_statistics_are_bounded() -> None:
    statistics = InferenceStatistics(max_versions=2)
    for version in "123":
        count(statistics, version, 1)
    assert list(statistics.versions()) == [("m", "2"), ("m", "3")]
    for rows in range(1, 200):
        count(statistics, "3", rows)
    assert len(statistics.counters("m", "3").batches) == BATCH_SIZES_MAX
    assert statistics.counters("m", "3").succeeded == 200
    count(statistics, "2", 0)
    assert (
        statistics.counters("m", "2").executions,
        len(statistics.counters("m", "2").batches),
    ) == (
        2.0,
        1,
    )
    statistics.failed("n", "1", 0.5)
    assert list(statistics.versions()) == [("m", "3"), ("n", "1")]


async def index(service: FakeInference, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    async with client_of(app_of(service, HttpSettings())) as client:
        return await client.post("/v2/repository/index", content=content)


async def test_the_index_lists_what_is_deployed(service: FakeInference) -> None:
    class Waiting(FakeInference):
        def deployed_models(self) -> tuple[DeployedModel, ...]:
            return (
                DeployedModel("a", (("2", True), ("1", False)), ""),
                DeployedModel("b", (), "version 1 failed to load"),
            )

    everything = [
        {"name": "a", "version": "2", "state": "READY", "reason": ""},
        {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "no replica is ready"},
        {"name": "b", "state": "UNAVAILABLE", "reason": "version 1 failed to load"},
    ]
    for body in (b"", {}, {"ready": False}, {"ready": None}, {"more": 1}):
        assert (await index(Waiting(), body)).json() == everything
    assert (await index(Waiting(), {"ready": True})).json() == everything[:1]


@pytest.mark.parametrize("body", [b"{", [], {"ready": 1}, b"null"])
async def test_a_bad_question_for_the_index(service: FakeInference, body: Any) -> None:
    answer = await index(service, body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert (await index(service, b" " * 5000)).status_code == 413


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_clients_do_not_load_models(service: FakeInference, action: str) -> None:
    async with client_of(app_of(service)) as client:
        answer = await client.post(f"/v2/repository/models/double/{action}", json={})
    assert answer.status_code == 501
    assert "tags and aliases in the registry" in answer.json()["error"]
    assert answer.headers["x-request-id"]
