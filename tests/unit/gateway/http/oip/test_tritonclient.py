"""`tritonclient.http`, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from penstock.shared.wire.tensors import AnyArray
from tests.unit.gateway.http.fakes import (
    FakeInference,
    FakeModel,
    app_of,
    echo,
    interface,
    serving,
    spec,
)

X = np.array([[1, 2, 3, 4.5], [5, 6, 7, 8]], np.float32)


@pytest.fixture(scope="module")
def service() -> FakeInference:
    return FakeInference()


@pytest.fixture(scope="module")
def client(service: FakeInference) -> Iterator[Any]:
    with serving(app_of(service)) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4)
        yield client
        client.close()


def tensor(name: str, datatype: str, array: Any, binary: bool) -> Any:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def test_health(client: Any, service: FakeInference) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("double")
    assert client.is_model_ready("my model", "1")
    assert not client.is_model_ready("none")
    service.is_ready = False
    try:
        assert not client.is_server_ready()
        assert not client.is_model_ready("double")
    finally:
        service.is_ready = True


def test_metadata(client: Any) -> None:
    assert client.get_server_metadata()["name"] == "penstock"
    metadata = client.get_model_metadata("double", "2")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer(
        "my model",
        [tensor("x", "FP32", X, binary_in)],
        outputs=outputs,
        request_id="seven",
        priority=1,
        timeout=1_000_000,
    )
    assert np.array_equal(result.as_numpy("y"), X * 2)
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("seven", "2")


@pytest.mark.parametrize("binary", [True, False])
def test_infer_with_texts(client: Any, binary: bool) -> None:
    text = np.array([b"a", "ü".encode(), b""], object)
    inputs = [
        tensor("text", "BYTES", text, binary),
        tensor("n", "INT64", np.array([1, -2, 2**62]), not binary),
    ]
    outputs = [
        triton.InferRequestedOutput("n", binary_data=binary),
        triton.InferRequestedOutput("text", binary_data=not binary),
    ]
    result = client.infer("texts", inputs, outputs=outputs, model_version="1")
    assert result.as_numpy("n").tolist() == [1, -2, 2**62]
    elements = [
        element if isinstance(element, bytes) else element.encode()
        for element in result.as_numpy("text").tolist()
    ]
    assert elements == text.tolist()


def test_async_infer(client: Any) -> None:
    pending = [
        client.async_infer("double", [tensor("x", "FP32", X + n, binary=True)]) for n in range(8)
    ]
    for n, one in enumerate(pending):
        assert np.array_equal(one.get_result().as_numpy("y"), (X + n) * 2)


def test_errors_arrive_as_messages(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="expected datatype FP32") as caught:
        client.infer("double", [tensor("x", "FP64", X.astype(np.float64), binary=True)])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'none'") as caught:
        client.infer("none", [tensor("x", "FP32", X, binary=True)])
    assert caught.value.status() == "404"


@pytest.mark.parametrize("outputs", [["a", "b"], ["b"], ["b", "a"]])
def test_large_tensors(client: Any, service: FakeInference, outputs: list[str]) -> None:
    service.models["large"] = FakeModel(
        interface([spec("a", "FP64", -1), spec("b", "INT8", -1, 2)]), echo
    )
    given: dict[str, AnyArray] = {
        "a": np.arange(300_000, dtype=np.float64),
        "b": np.ones((300_001, 2), np.int8),
    }
    result = client.infer(
        "large",
        [tensor("a", "FP64", given["a"], True), tensor("b", "INT8", given["b"], True)],
        outputs=[triton.InferRequestedOutput(name) for name in outputs],
    )
    for name in outputs:
        assert np.array_equal(result.as_numpy(name), given[name])


def test_config_statistics_and_index(client: Any, service: FakeInference) -> None:
    assert client.get_model_config("double", "1")["input"][0]["data_type"] == "TYPE_FP32"
    client.infer("double", [tensor("x", "FP32", X, binary=True)], model_version="1")
    (entry,) = client.get_inference_statistics("double", "1")["model_stats"]
    assert entry["inference_stats"]["success"]["count"] >= 1
    assert len(client.get_inference_statistics("double")["model_stats"]) == 2
    everything = client.get_inference_statistics()["model_stats"]
    assert {"double", "my model", "texts"} <= {each["name"] for each in everything}
    index = client.get_model_repository_index()
    assert {"name": "double", "version": "2", "state": "READY", "reason": ""} in index
    with pytest.raises(InferenceServerException, match="no model 'none'") as caught:
        client.get_model_config("none")
    assert caught.value.status() == "404"


@pytest.mark.parametrize("sent", ["gzip", "deflate", None])
@pytest.mark.parametrize("wanted", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(
    client: Any, service: FakeInference, sent: str | None, wanted: str | None, binary: bool
) -> None:
    service.models["wide"] = FakeModel(interface([spec("x", "FP32", -1, -1)]), echo)
    array = np.arange(20_000, dtype=np.float32).reshape(2, -1)
    result = client.infer(
        "wide",
        [tensor("x", "FP32", array, binary)],
        outputs=[triton.InferRequestedOutput("x", binary_data=binary)],
        request_compression_algorithm=sent,
        response_compression_algorithm=wanted,
    )
    assert np.array_equal(result.as_numpy("x"), array)


def test_every_numpy_datatype(client: Any, service: FakeInference) -> None:
    bf16 = np.array([1.5, -2.0, 3.3895e38], ml_dtypes.bfloat16)
    arrays: dict[str, AnyArray] = {
        "BOOL": np.array([True, False]),
        "FP16": np.array([1.5, -65504], np.float16),
        "BF16": bf16,
        **{
            f"{sign.upper()}{bits}": np.array([0, 2 ** (bits - 1) - 1], f"{sign}{bits}")
            for sign in ("int", "uint")
            for bits in (8, 16, 32, 64)
        },
    }
    for datatype, array in arrays.items():
        service.models[datatype] = FakeModel(interface([spec("v", datatype, -1)]), echo)
        for binary in (True, False):
            if datatype == "BF16" and not binary:
                continue  # the client itself refuses this
            result = client.infer(datatype, [tensor("v", datatype, array, binary)])
            assert result.as_numpy("v").tolist() == array.tolist(), (datatype, binary)


def test_what_is_not_offered_says_so(client: Any) -> None:
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="tags and aliases in the registry") as c:
            ask("double")
        assert c.value.status() == "501"
    for ask in (
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException, match="not found") as caught:
            ask()
        assert caught.value.status() == "404"
    shared = triton.InferInput("x", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="shared_memory_region"):
        client.infer("double", [shared])
