"""The routes over ASGI: statuses, bodies, headers, and what the service is asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from penstock.gateway.http.errors import STATUS_OF
from penstock.gateway.http.settings import HttpSettings
from penstock.shared.contracts.errors import RETRYABLE, ErrorCode, FailedAttempt, PenstockError
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import FakeInference, app_of, client_of, tensor_named, x_input

INFER = "/v2/models/double/infer"
GOOD: dict[str, Any] = {"inputs": [x_input()]}


@pytest.fixture
def service() -> FakeInference:
    return FakeInference()


async def ask(service: FakeInference, method: str, path: str, **options: Any) -> httpx.Response:
    async with client_of(app_of(service)) as client:
        return await client.request(method, path, **options)


async def infer(service: FakeInference, document: Any = GOOD, **options: Any) -> httpx.Response:
    return await ask(service, "POST", INFER, json=document, **options)


async def test_server_metadata(service: FakeInference) -> None:
    answer = await ask(service, "GET", "/v2")
    assert answer.status_code == 200
    assert answer.json()["name"] == "penstock"
    assert answer.json()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ]


async def test_model_metadata(service: FakeInference) -> None:
    for path in ("/v2/models/double", "/v2/models/double/versions/1"):
        assert (await ask(service, "GET", path)).json() == {
            "name": "double",
            "versions": ["2", "1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
        }


@pytest.mark.parametrize(
    ("path", "bad", "body"),
    [
        ("/", 200, {"status": "alive"}),
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 400, {"live": True, "ready": True}),
        ("/v2/models/double/ready", 400, {"name": "double", "ready": True}),
        ("/v2/models/double/versions/1/ready", 400, {"name": "double", "ready": True}),
    ],
)
async def test_health_says_yes_or_no_in_its_status_and_in_json(
    path: str, bad: int, body: dict[str, object]
) -> None:
    for is_ready, status in ((True, 200), (False, bad)):
        answer = await ask(FakeInference(is_ready=is_ready), "GET", path)
        expected = {**body, "ready": is_ready} if "ready" in body else dict(body)
        if "live" in expected and expected.get("ready") is False:
            expected["reason"] = "told not to be"
        assert (answer.status_code, answer.json()) == (status, expected)
        assert answer.headers["content-type"] == "application/json"
        assert (await ask(FakeInference(is_ready=is_ready), "HEAD", path)).status_code == status


@pytest.mark.parametrize("path", ["/v2/models/double/versions/7/ready", "/v2/models/none/ready"])
async def test_the_health_of_what_does_not_exist_is_404(path: str) -> None:
    for is_ready in (True, False):
        answer = await ask(FakeInference(is_ready=is_ready), "GET", path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/double/versions/7", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/double/versions/7/infer", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/double", 405),
    ],
)
async def test_errors_have_one_shape(
    service: FakeInference, method: str, path: str, status: int
) -> None:
    answer = await ask(service, method, path, json=GOOD if method == "POST" else None)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert ("allow" in answer.headers) == (status == 405)


async def test_infer_with_json(service: FakeInference) -> None:
    answer = await infer(service, {**GOOD, "id": "seven"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    assert answer.json() == {
        "model_name": "double",
        "model_version": "2",
        "id": "seven",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 9.0]}
        ],
    }
    timing = answer.headers["server-timing"]
    assert re.fullmatch(r"queue;dur=1\.000, infer;dur=2\.000, total;dur=\d+\.\d{3}", timing)


async def test_infer_with_binary_both_ways(service: FakeInference) -> None:
    raw = np.array([[1, np.nan, np.inf, 4]], "<f4").tobytes()
    entry = x_input(parameters={"binary_data_size": 16})
    del entry["data"]
    text = orjson.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}})
    headers = {
        "inference-header-content-length": str(len(text)),
        "content-type": "application/octet-stream",
    }
    answer = await ask(service, "POST", INFER, content=text + raw, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    output = orjson.loads(answer.content[:length])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 16}
    assert answer.content[length:] == np.array([[2, np.nan, np.inf, 8]], "<f4").tobytes()


async def test_infer_hands_the_request_over_as_a_call(service: FakeInference) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    document = {
        "inputs": [x_input()],
        "outputs": [{"name": "y"}],
        "parameters": {"priority": 2, "timeout": 3_000_000, "zoom": 2},
    }
    headers = {"traceparent": trace, "x-request-timeout-seconds": "2.5"}
    path = "/v2/models/my%20model/versions/1/infer"
    answer = await ask(service, "POST", path, json=document, headers=headers)
    assert answer.json()["model_version"] == "1"
    (call,) = service.calls
    assert (call.model, call.version, call.outputs) == ("my model", "1", ("y",))
    assert (call.priority, call.timeout_s, call.traceparent) == (2, 2.5, trace)
    assert call.parameters == (("zoom", 2),)
    assert tensor_named(call.inputs, "x").tolist() == [[1, 2, 3, 4.5]]


@pytest.mark.parametrize(
    ("header", "parameter", "timeout_s"),
    [(None, None, None), ("0.5", None, 0.5), (None, 250_000, 0.25), ("0.5", 900_000, 0.5)],
)
async def test_the_shorter_timeout_counts(
    service: FakeInference, header: str | None, parameter: int | None, timeout_s: float | None
) -> None:
    headers = {} if header is None else {"x-request-timeout-seconds": header}
    await infer(service, {**GOOD, "parameters": {"timeout": parameter}}, headers=headers)
    assert service.calls[0].timeout_s == timeout_s


@pytest.mark.parametrize(
    "given",
    [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "nonsense",
    ],
)
async def test_a_malformed_trace_context_is_ignored(service: FakeInference, given: str) -> None:
    assert (await infer(service, headers={"traceparent": given})).status_code == 200
    assert service.calls[0].traceparent == ""


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon", "", "1e999"])
async def test_bad_timeout_header(service: FakeInference, given: str) -> None:
    answer = await infer(service, headers={"x-request-timeout-seconds": given})
    assert answer.status_code == 400
    expected = "header x-request-timeout-seconds: expected a number above 0, got "
    assert answer.json()["error"].startswith(expected)


@pytest.mark.parametrize("given", ["-1", "1.5", "", "x", "9" * 19, "9" * 5000, "+5"])
async def test_bad_json_length_header(service: FakeInference, given: str) -> None:
    answer = await infer(service, headers={"inference-header-content-length": given})
    assert answer.status_code == 400
    expected = "Inference-Header-Content-Length: expected a whole number of bytes, not negative"
    assert answer.json()["error"].startswith(expected)
    assert len(answer.content) < 300


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a", True), ("trace/7 of 9", True), ("a" * 128, True), ("a" * 129, False), ("ü", False)],
)
async def test_request_id_is_kept_if_sane(service: FakeInference, given: str, kept: bool) -> None:
    for answer in (
        await infer(service, headers={"x-request-id": given.encode()}),
        await infer(service, {}, headers={"x-request-id": given.encode()}),
    ):
        assert (answer.headers["x-request-id"] == given) == kept


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/octet-stream", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/html", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_content_types(service: FakeInference, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = orjson.dumps(GOOD)
    answer = await ask(service, "POST", INFER, content=body, headers=headers)
    assert answer.status_code == status


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS_OF) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_failures_of_the_service(service: FakeInference, code: ErrorCode) -> None:
    service.failure = PenstockError(code, "why it failed", retry_after_s=2.2)
    answer = await infer(service)
    assert answer.status_code == STATUS_OF[code]
    assert answer.json() == {"error": "why it failed"}
    assert answer.headers.get("retry-after") == ("3" if code in RETRYABLE else None)
    assert answer.headers["x-request-id"]


async def test_a_failure_tells_what_was_tried(service: FakeInference) -> None:
    service.failure = PenstockError(ErrorCode.MODEL_ERROR, "it raised")
    assert "x-penstock-hedged" not in (await infer(service)).headers
    service.failure.attempts, service.failure.hedged = 2, "failed"
    answer = await infer(service)
    assert answer.headers["x-penstock-attempts"] == "2"
    assert answer.headers["x-penstock-hedged"] == "failed"


async def test_retry_after_has_a_default(service: FakeInference) -> None:
    service.failure = PenstockError(ErrorCode.QUEUE_FULL, "full")
    assert (await infer(service)).headers["retry-after"] == "1"


@pytest.mark.parametrize("path", [INFER, "/v2/models/double"])
async def test_an_unforeseen_error_is_logged_and_not_shown(path: str) -> None:
    class Broken(FakeInference):
        def metadata(self, model: str, version: str | None) -> Any:
            raise RuntimeError("secret")

    method = "POST" if path == INFER else "GET"
    with structlog.testing.capture_logs() as logs:
        answer = await ask(Broken(), method, path, json=GOOD, headers={"x-request-id": "r1"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error"}
    assert answer.headers["x-request-id"] == "r1"
    (line,) = logs
    assert (line["log_level"], line["request_id"]) == ("error", "r1")
    assert isinstance(line["exc_info"], RuntimeError)


@pytest.mark.parametrize(
    ("code", "level"),
    [
        (ErrorCode.INVALID_INPUT, "info"),
        (ErrorCode.QUEUE_FULL, "debug"),
        (ErrorCode.CANCELLED, "info"),
        (ErrorCode.MODEL_ERROR, "warning"),
        (ErrorCode.DEADLINE_EXCEEDED, "warning"),
    ],
)
async def test_failures_are_logged_with_what_finds_them(
    service: FakeInference, code: ErrorCode, level: str
) -> None:
    service.failure = PenstockError(code, "why")
    with structlog.testing.capture_logs() as logs:
        await infer(service, headers={"x-request-id": "r1"})
    (line,) = logs
    assert line["log_level"] == level
    assert (line["request_id"], line["model"], line["code"]) == ("r1", "double", code.value)


async def test_a_failure_names_the_attempts_that_the_log_of_a_replica_has(
    service: FakeInference,
) -> None:
    service.failure = PenstockError(ErrorCode.MODEL_ERROR, "why")
    service.failure.failed = (FailedAttempt(3, "r-1", "w-1"),)
    with structlog.testing.capture_logs() as logs:
        answer = await infer(service)
    (line,) = logs
    assert line["attempts"] == [{"attempt": 3, "replica": "r-1", "worker": "w-1"}]
    assert "r-1" not in answer.text


async def test_success_logs_nothing(service: FakeInference) -> None:
    with structlog.testing.capture_logs() as logs:
        await infer(service)
    assert logs == []


@pytest.mark.parametrize(
    ("body", "failed_version", "labels"),
    [
        ({}, "", {"code": "invalid_input", "version": "2"}),
        (GOOD, "", {"code": "model_error", "version": "2"}),
        (GOOD, "3", {"code": "model_error", "version": "3"}),  # it was swapped meanwhile
    ],
)
async def test_a_failure_is_counted_for_the_version_that_was_to_answer(
    service: FakeInference, body: dict[str, object], failed_version: str, labels: dict[str, str]
) -> None:
    registry = CollectorRegistry()
    service.failure = PenstockError(ErrorCode.MODEL_ERROR, "it failed")
    service.failure.version = failed_version
    async with client_of(app_of(service, registry=registry)) as client:
        await client.post(INFER, json=body)
    counted = {"model": "double", **labels}
    assert registry.get_sample_value("penstock_gateway_requests_total", counted) == 1


async def test_metrics_count_by_model_version_and_outcome(service: FakeInference) -> None:
    registry = CollectorRegistry()
    async with client_of(app_of(service, registry=registry)) as client:
        await client.post(INFER, json=GOOD)
        await client.post("/v2/models/double/versions/1/infer", json={})
        for name in ("made", "up", "names"):
            await client.post(f"/v2/models/{name}/infer", json=GOOD)
        await client.post("/v2/models/double/versions/7/infer", json=GOOD)
        page = (await client.get("/metrics")).text
    samples = set(re.findall(r"penstock_gateway_requests_total(\{.*\} .*)", page))
    assert samples == {
        '{code="ok",model="double",version="2"} 1.0',
        '{code="invalid_input",model="double",version="1"} 1.0',
        '{code="model_not_found",model="",version=""} 3.0',
        '{code="version_not_found",model="double",version=""} 1.0',
    }
    assert "penstock_gateway_requests_in_flight 0.0" in page
    size = float(len(httpx.Request("POST", "http://x", json=GOOD).content))
    labels = {"model": "double", "version": "2"}
    assert registry.get_sample_value("penstock_gateway_request_bytes_total", labels) == size
    assert (registry.get_sample_value("penstock_gateway_response_bytes_total", labels) or 0) > 50
    assert registry.get_sample_value("penstock_gateway_request_seconds_count", labels) == 1


async def test_series_are_bounded(service: FakeInference) -> None:
    double = service.models["double"]
    service.models |= {f"m{n}": double for n in range(10)}
    async with client_of(app_of(service, HttpSettings(max_metric_series=3))) as client:
        for n in range(10):
            await client.post(f"/v2/models/m{n}/infer", json=GOOD)
        page = (await client.get("/metrics")).text
    models = set(re.findall(r'model="(\w+)"', page))
    assert models == {"m7", "m8", "m9"}


async def test_metrics_are_shown_whatever_version_is_asked_for(service: FakeInference) -> None:
    headers = {"accept": "application/openmetrics-text; version=1e9"}
    answer = await ask(service, "GET", "/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


async def test_metrics_speak_openmetrics_on_demand(service: FakeInference) -> None:
    plain = await ask(service, "GET", "/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    headers = {"accept": "application/openmetrics-text; version=1.0.0"}
    modern = await ask(service, "GET", "/metrics", headers=headers)
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_a_body_over_the_limit_is_refused_before_it_is_read(service: FakeInference) -> None:
    async with client_of(app_of(service, HttpSettings(max_body_bytes=1000))) as client:
        answer = await client.post(INFER, content=b" " * 1001)
        assert answer.status_code == 413
        assert answer.json() == {"error": "request body: expected at most 1000 bytes, got more"}
        assert answer.headers["connection"] == "close"
        assert (await client.post(INFER, content=b" " * 1000)).status_code == 400


async def test_openapi_documents_what_there_is(service: FakeInference) -> None:
    document = (await ask(service, "GET", "/openapi.json")).json()
    infer_doc = document["paths"]["/v2/models/{model}/infer"]["post"]
    content = infer_doc["requestBody"]["content"]
    assert set(content) == {"application/json", "application/octet-stream"}
    assert set(infer_doc["responses"]) == {"200", "4XX", "5XX"}
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert "422" not in operation["responses"]
    schemas = document["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/(\w+)"', orjson.dumps(document).decode())
    assert set(references) <= set(schemas)
    assert {"InferRequest", "InferInput", "InferResponse", "ErrorBody"} <= set(schemas)


async def test_the_documentation_needs_no_network_and_has_each_models_example(
    service: FakeInference,
) -> None:
    page = (await ask(service, "GET", "/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {link.split("/")[1] for link in links} == {"docs"}, links
    for link in links:
        answer = await ask(service, "GET", link)
        assert (answer.status_code, len(answer.content) > 100) == (200, True)
    assert (await ask(service, "GET", "/docs/other.js")).status_code == 404
    double = service.models["double"]
    example = '{"dataframe_split":{"columns":["x"],"data":[[1]]}}'
    shown = double.interface.model_copy(update={"example": example})
    for interface, expected in ((shown, ["double"]), (double.interface, [])):
        service.models["double"] = replace(double, interface=interface)
        document = (await ask(service, "GET", "/openapi.json")).json()
        post = document["paths"]["/v2/models/{model}/invocations"]["post"]
        content = post["requestBody"]["content"]["application/json"]
        assert list(content.get("examples", {})) == expected
        for each in content.get("examples", {}).values():
            assert each["value"] == orjson.loads(example)


async def test_the_route_and_the_short_way_answer_alike(service: FakeInference) -> None:
    app = app_of(service)
    transport = httpx.ASGITransport(app, root_path="/models-api")
    async with httpx.AsyncClient(transport=transport, base_url="http://x/models-api") as client:
        for path in ("double/infer", "my%20model/versions/1/infer", "none/infer"):
            routed = await client.post(f"/v2/models/{path}", json=GOOD)
            short = await ask(service, "POST", f"/v2/models/{path}", json=GOOD)
            assert (routed.status_code, routed.content) == (short.status_code, short.content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@examples(60)
@given(JSON | JSON.map(lambda value: {"inputs": [x_input(data=value)]}))
async def test_any_json_is_answered_200_or_400(document: Any) -> None:
    body = orjson.dumps(document)
    with structlog.testing.capture_logs():
        answer = await ask(FakeInference(), "POST", INFER, content=body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)
