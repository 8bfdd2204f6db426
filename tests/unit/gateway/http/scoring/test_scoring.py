"""MLflow's scoring and KServe v1 over ASGI: every shape of data, answers, and errors."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.scoring.formats import MLFLOW_CODE_OF
from penstock.gateway.http.scoring.inputs import names_once
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import AnyArray, array_from_tensor
from tests.unit.gateway.http.fakes import (
    FakeInference,
    FakeModel,
    app_of,
    client_of,
    interface,
    spec,
    tensor_named,
)

FRAME = interface(
    [spec("age", "FP64", -1), spec("count", "INT64", -1), spec("city", "BYTES", -1)],
    [spec("score", "FP64", -1), spec("label", "BYTES", -1)],
    max_batch_size=8,
)
MATRIX = interface([spec("x", "FP32", -1, 4)], [spec("output-0", "FP32", -1)], max_batch_size=8)
PAIR = interface(
    [spec("a", "FP32", -1, 2), spec("b", "INT32", -1)],
    [spec("sum", "FP32", -1, 2), spec("n", "INT32", -1)],
    max_batch_size=8,
)


def score(arrays: dict[str, AnyArray]) -> dict[str, AnyArray]:
    return {"score": np.nan_to_num(arrays["age"], nan=-1.0), "label": arrays["city"]}


def platform(interface: ModelInterface, name: str) -> ModelInterface:
    return interface.model_copy(update={"platform": name})


@pytest.fixture
def service() -> FakeInference:
    return FakeInference(
        models={
            "frame": FakeModel(platform(FRAME, "mlflow_pyfunc"), score),
            "matrix": FakeModel(
                platform(MATRIX, "mlflow_pyfunc"), lambda arrays: {"output-0": arrays["x"].sum(1)}
            ),
            "onnx": FakeModel(MATRIX, lambda arrays: {"output-0": arrays["x"].sum(1)}),
            "pair": FakeModel(
                PAIR, lambda arrays: {"sum": arrays["a"] + arrays["b"][:, None], "n": arrays["b"]}
            ),
        }
    )


async def post(service: FakeInference, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    given = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    async with client_of(app_of(service)) as client:
        return await client.post(path, content=content, headers=given)


async def score_with(service: FakeInference, model: str, body: Any, **headers: str) -> Any:
    answer = await post(service, f"/v2/models/{model}/invocations", body, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


ROWS: list[list[Any]] = [[1.5, 2, "Ulm"], [None, 3, "Köln"]]
NAMES = ["age", "count", "city"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
CSV = "age,count,city\n1.5,2,Ulm\n,3,Köln\n".encode()
SCORES = [{"score": 1.5, "label": "Ulm"}, {"score": -1.0, "label": "Köln"}]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": NAMES, "data": ROWS}},
        {"dataframe_split": {"columns": NAMES, "data": ROWS, "index": [7, 8]}},
        {"dataframe_split": {"data": ROWS}},
        {
            "dataframe_split": {
                "columns": ["more", *reversed(NAMES)],
                "data": [[0, *reversed(row)] for row in ROWS],
            }
        },
        {"dataframe_records": RECORDS},
        {"dataframe_records": [RECORDS[0], {"count": 3, "city": "Köln"}]},
    ],
)
async def test_tables_become_columns(service: FakeInference, body: Any) -> None:
    assert await score_with(service, "frame", body) == SCORES
    assert tensor_named(service.calls[0].inputs, "count").tolist() == [2, 3]


async def test_csv_is_read_by_the_interfaces_datatypes(service: FakeInference) -> None:
    for text in (CSV, b"\xef\xbb\xbf" + CSV, CSV.replace(b"\n", b"\r\n"), CSV.rstrip()):
        assert await score_with(service, "frame", text, content_type="text/csv") == SCORES
    quoted = b'age,count,city,extra\n1,2,"a,""b"" \nc",x\n'
    predictions = await score_with(service, "frame", quoted, content_type="text/csv")
    assert predictions == [{"score": 1.0, "label": 'a,"b" \nc'}]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"age": [1.5, 2], "count": [2, 3], "city": ["Ulm", "Bonn"]}},
        {"instances": {"age": [1.5, 2], "count": [2, 3], "city": ["Ulm", "Bonn"]}},
        {
            "instances": [
                {"age": 1.5, "count": 2, "city": "Ulm"},
                {"age": 2, "count": 3, "city": "Bonn"},
            ]
        },
        {
            "inputs": [
                {"age": 1.5, "count": 2, "city": "Ulm"},
                {"age": 2, "count": 3, "city": "Bonn"},
            ]
        },
    ],
)
async def test_columns_by_name(service: FakeInference, body: Any) -> None:
    predictions = await score_with(service, "frame", body)
    assert [row["label"] for row in predictions] == ["Ulm", "Bonn"]


async def test_one_row_of_scalars(service: FakeInference) -> None:
    body = {"inputs": {"age": 1, "count": 2, "city": "Ulm"}}
    assert await score_with(service, "frame", body) == [{"score": 1.0, "label": "Ulm"}]


X: list[list[Any]] = [[1, 2, 3, 4], [0.5, 0, 0, 0]]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": X},
        {"instances": X},
        {"inputs": {"x": X}},
        {"instances": [{"x": X[0]}, {"x": X[1]}]},
        {"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": X}},
        {"dataframe_split": {"data": X}},
        {"dataframe_split": {"columns": ["x"], "data": [[X[0]], [X[1]]]}},
        {"dataframe_records": [dict(zip("abcd", row, strict=True)) for row in X]},
    ],
)
async def test_one_matrix_in_every_shape(service: FakeInference, body: Any) -> None:
    assert await score_with(service, "matrix", body) == [10.0, 0.5]
    assert await score_with(service, "onnx", body) == {"output-0": [10.0, 0.5]}
    assert array_from_tensor(service.calls[0].inputs[0]).tolist() == X


async def test_a_matrix_from_csv(service: FakeInference) -> None:
    text = b"a,b,c,d\n1,2,3,4\n5e-1,0,0,0\n"
    assert await score_with(service, "matrix", text, content_type="text/csv") == [10.0, 0.5]


async def test_params_go_to_the_model(service: FakeInference) -> None:
    await score_with(service, "matrix", {"inputs": X, "params": {"zoom": 2}, "other": 1})
    assert service.calls[0].parameters == (("zoom", 2),)


async def test_a_version_and_headers_that_all_requests_know(service: FakeInference) -> None:
    path = "/v2/models/matrix/versions/1/invocations"
    answer = await post(service, path, {"inputs": X}, x_request_timeout_seconds="2")
    assert answer.status_code == 200
    assert "server-timing" in answer.headers
    assert (service.calls[0].version, service.calls[0].timeout_s) == ("1", 2.0)


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        ("matrix", {}, 'request: expected exactly one of "dataframe_split", "dataframe_records"'),
        ("matrix", {"inputs": X, "instances": X}, 'request: expected exactly one of "dataframe'),
        ("matrix", [], "request: expected a JSON object, got a list of 0 elements"),
        ("matrix", b"{", "request: expected JSON, got a fault at line 1"),
        ("matrix", {"inputs": [[1, 2]]}, 'input "x": expected shape [-1,4], got [1,2]'),
        ("matrix", {"inputs": [1, 2]}, 'input "x": expected shape [-1,4], got 1 dimension'),
        ("matrix", {"inputs": 1}, 'input "x": expected lists of FP32 elements, got 1'),
        ("matrix", {"inputs": [[1, 2, 3, "4"]]}, 'input "x": expected FP32 numbers, got "4" at'),
        ("matrix", {"inputs": [[1, 2, 3, True]]}, 'input "x": expected FP32 numbers, got true at'),
        ("matrix", {"inputs": [[1, 2, 3, 1e39]]}, 'input "x": expected FP32 numbers of magnitude'),
        ("matrix", {"inputs": [X[0], [1]]}, 'input "x": expected 4 elements at data[1] for'),
        ("matrix", {"inputs": []}, 'input "x": expected shape [-1,4], got 1 dimension'),
        ("matrix", {"inputs": {"y": X}}, 'input "x": expected FP32[-1,4], got no such tensor'),
        ("matrix", {"inputs": X, "params": 1}, "params: expected an object, got 1"),
        ("frame", {"inputs": X}, 'inputs: expected each by its name ("age", "count", "city"), got'),
        ("frame", {"dataframe_records": {}}, "dataframe_records: expected a list of objects, got"),
        ("frame", {"dataframe_records": [1]}, "dataframe_records[0]: expected an object, got 1"),
        ("frame", {"dataframe_records": []}, 'input "age": expected FP64[-1], got no such tensor'),
        ("frame", {"dataframe_split": []}, 'dataframe_split: expected an object with "data"'),
        ("frame", {"dataframe_split": {"data": [], "x": 1}}, "dataframe_split: expected an object"),
        ("frame", {"dataframe_split": {"data": 1}}, "dataframe_split: data: expected a list of"),
        (
            "frame",
            {"dataframe_split": {"columns": NAMES, "data": [[1]]}},
            "dataframe_split: data[0]: expected a list of 3, got a list of 1 element",
        ),
        (
            "frame",
            {"dataframe_records": [{"age": 1, "city": "x"}]},
            'input "count": expected INT64[-1], got no such tensor',
        ),
        (
            "frame",
            {"dataframe_records": [{**RECORDS[0], "count": None}]},
            'input "count": expected INT64 numbers, got null at data[0]',
        ),
        (
            "frame",
            {"dataframe_records": [{**RECORDS[0], "count": 1.5}]},
            'input "count": expected whole INT64 numbers from',
        ),
        ("frame", {"instances": [{"age": 1}, 2]}, "instances[1]: expected an object, got 2"),
        ("pair", {"inputs": {"a": [[1, 2]], "b": [1, 2]}}, 'input "b": expected 1 rows as in'),
    ],
)
async def test_bad_data_is_named(
    service: FakeInference, model: str, body: Any, message: str
) -> None:
    answer = await post(service, f"/v2/models/{model}/invocations", body)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert answer.json()["message"].startswith(message)
    assert service.calls == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "request: expected CSV with a line of column names, got no line"),
        (b"age\n1,2\n", "row 1 of the CSV: expected 1 values, got 2"),
        (b'age\n"1\n', "request: expected CSV, got a fault"),
        (b"age,count,city\n1,x,y\n", 'input "count": expected INT64 numbers, got "x" at data[0]'),
        (b"age,count,city\n1_0,1,y\n", 'input "age": expected FP64 numbers, got "1_0" at'),
        (b"age,count,city\ninf,1,y\n", 'input "age": expected FP64 numbers, got "inf" at'),
        (b"age,count,city\n1,,y\n", 'input "count": expected INT64 numbers, got null at data[0]'),
        (b"age,count,city\n", 'input "age": expected FP64[-1], got no such tensor'),
        (b"\xff", "request: expected CSV in UTF-8, got other bytes"),
        (b"age\n" + b"1" * 140_000, "request: expected CSV, got a fault"),
    ],
)
async def test_bad_csv_is_named(service: FakeInference, text: bytes, message: str) -> None:
    answer = await post(service, "/v2/models/frame/invocations", text, content_type="text/csv")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(message)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=UTF-8", 200),
        ("application/json; charset=latin-1", 415),
        ("application/vnd.apache.parquet", 400),  # this model's replicas do not read it
        ("text/plain", 415),
    ],
)
async def test_content_types(service: FakeInference, content_type: str, status: int) -> None:
    path = "/v2/models/matrix/invocations"
    answer = await post(service, path, {"inputs": X}, content_type=content_type)
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error_code"] == "BAD_REQUEST"
        assert "application/vnd.apache.parquet" in answer.json()["message"]


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_errors_have_mlflows_shape(service: FakeInference, code: ErrorCode) -> None:
    service.failure = PenstockError(code, "why")
    answer = await post(service, "/v2/models/matrix/invocations", {"inputs": X})
    expected = MLFLOW_CODE_OF.get(code, "INTERNAL_ERROR")
    assert answer.json() == {"error_code": expected, "message": "why"}
    unknown = await post(service, "/v2/models/none/invocations", {"inputs": X})
    assert unknown.status_code == 404
    assert unknown.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


async def test_invocations_without_a_name_need_exactly_one_model(service: FakeInference) -> None:
    answer = await post(service, "/invocations", {"inputs": X})
    assert answer.status_code == 400
    assert answer.json()["message"] == (
        "4 models are deployed: name one as in /v2/models/NAME/invocations "
        '("frame", "matrix", "onnx", "pair")'
    )
    alone = FakeInference(models={"matrix": service.models["matrix"]})
    assert (await post(alone, "/invocations", {"inputs": X})).json() == {"predictions": [10.0, 0.5]}
    assert (await post(FakeInference(models={}), "/invocations", {})).status_code == 404


async def test_numbers_that_are_not_finite_are_null(service: FakeInference) -> None:
    service.models["matrix"].function = lambda arrays: {
        "output-0": np.array([[np.inf, -np.inf, np.nan, np.inf]])
    }
    body = {"inputs": [[1, -1, 0, 1]]}
    assert await score_with(service, "matrix", body) == [[None, None, None, None]]


@pytest.mark.parametrize("name", ["mlflow_pyfunc", "onnxruntime_onnx", "pytorch"])
@pytest.mark.parametrize(
    ("datatype", "value", "shown"),
    [
        ("FP32", np.float32(0.1), 0.1),
        ("FP64", np.float64(0.1), 0.1),
        ("FP16", np.float16(0.5), 0.5),
        ("FP32", np.float32("nan"), None),
        ("INT64", np.int64(2**62), 2**62),
        ("BOOL", np.bool_(True), True),
        ("BYTES", b"a", "a"),
    ],
)
async def test_an_output_may_be_a_single_value(
    name: str, datatype: str, value: Any, shown: Any
) -> None:
    array = np.array(value, object if datatype == "BYTES" else None)
    model = interface([spec("x", "FP32", -1)], [spec("output-0", datatype)])
    fake = FakeModel(platform(model, name), lambda arrays: {"output-0": array})
    service = FakeInference(models={"scalar": fake})
    expected = {"output-0": shown} if name == "onnxruntime_onnx" else shown
    assert await score_with(service, "scalar", {"inputs": [1.0]}) == expected
    answer = await post(service, "/v1/models/scalar:predict", {"inputs": [1.0]})
    assert answer.json() == {"predictions": shown}
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
    answer = await post(service, "/v2/models/scalar/infer", {"inputs": [entry]})
    assert answer.json()["outputs"][0]["data"] == [shown]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["n", "city"], "data": [[1, None], [2, "Ulm"]]}},
        {"dataframe_records": [{"n": 1, "city": None}, {"n": 2, "city": "Ulm"}]},
        {"dataframe_records": [{"n": 1}, {"n": 2, "city": "Ulm"}]},
        {"inputs": {"n": [1, 2], "city": [None, "Ulm"]}},
        {"instances": [{"n": 1, "city": None}, {"n": 2, "city": "Ulm"}]},
        b"n,city\n1,\n2,Ulm\n",
    ],
)
async def test_a_text_may_be_missing_in_a_column_that_is_optional(body: Any) -> None:
    city = TensorSpec(name="city", datatype="BYTES", shape=(-1,), optional=True)
    fake = FakeModel(interface([spec("n", "INT64", -1), city]), lambda arrays: arrays)
    service = FakeInference(models={"m": fake})
    kind = "text/csv" if isinstance(body, bytes) else "application/json"
    answers = await score_with(service, "m", body, content_type=kind)
    assert answers == {"n": [1, 2], "city": ["", "Ulm"]}
    service.models["m"].interface = interface([spec("n", "INT64", -1), spec("city", "BYTES", -1)])
    if not isinstance(body, bytes):
        assert (await post(service, "/v2/models/m/invocations", body)).status_code == 400


async def test_kserve_predicts_by_instances(service: FakeInference) -> None:
    async def predict(model: str, body: Any) -> Any:
        return (await post(service, f"/v1/models/{model}:predict", body)).json()

    assert await predict("matrix", {"instances": X}) == {"predictions": [10.0, 0.5]}
    assert await predict("onnx", {"inputs": {"x": X}}) == {"predictions": [10.0, 0.5]}
    pair = {"instances": [{"a": [1, 2], "b": 1}, {"a": [3, 4], "b": 2}]}
    assert await predict("pair", pair) == {
        "predictions": [{"sum": [2.0, 3.0], "n": 1}, {"sum": [5.0, 6.0], "n": 2}]
    }
    assert await predict("matrix", {}) == {
        "error": 'request: expected exactly one of "instances", "inputs", got none of them'
    }


async def test_kserve_knows_the_models(service: FakeInference) -> None:
    async with client_of(app_of(service)) as client:
        listed = await client.get("/v1/models")
        assert listed.json() == {"models": ["frame", "matrix", "onnx", "pair"]}
        ready = await client.get("/v1/models/matrix")
        assert (ready.status_code, ready.json()) == (200, {"name": "matrix", "ready": True})
        assert (await client.get("/v1/models/none")).status_code == 404
        service.is_ready = False
        waiting = await client.get("/v1/models/matrix")
        assert (waiting.status_code, waiting.json()) == (503, {"name": "matrix", "ready": False})


@pytest.mark.parametrize(
    "text",
    [b"age,age,count,city\n1.5,9,2,x\n", b"age,count,city,city,zip,zip\n1.5,2,x,y,1,2\n"],
)
async def test_of_columns_in_csv_that_have_one_name_the_first_is_taken(
    service: FakeInference, text: bytes
) -> None:
    """As pandas reads them for MLflow's server: the second `age` is `age.1`."""
    once = b"age,count,city\n1.5,2,x\n"
    wanted = await score_with(service, "frame", once, content_type="text/csv")
    assert await score_with(service, "frame", text, content_type="text/csv") == wanted


async def test_of_columns_in_json_that_have_one_name_none_is_taken(service: FakeInference) -> None:
    split = {"columns": ["age", "count", "city", "age"], "data": [[1.5, 2, "x", 9]]}
    response = await post(service, "/v2/models/frame/invocations", {"dataframe_split": split})
    assert response.status_code == 400
    assert response.json()["message"] == 'columns: "age": expected one column of this name, got 2'
    beside = {"columns": [*NAMES, "zip", "zip"], "data": [[*ROWS[0], 1, 2]]}
    assert len(await score_with(service, "frame", {"dataframe_split": beside})) == 1


@given(st.lists(st.sampled_from(["a", "b", "a.1", "a.2", "a.1.1", "b.1"]), min_size=1, max_size=9))
def test_columns_are_named_once_as_pandas_does(names: list[str]) -> None:
    line = ",".join(names)
    frame = pd.read_csv(io.StringIO(f"{line}\n{line}\n"))
    assert names_once(names) == list(frame.columns)


@pytest.mark.parametrize("path", ["/ping", "/health"])
async def test_health_as_mlflow_tells_it(service: FakeInference, path: str) -> None:
    async with client_of(app_of(service)) as client:
        ready = await client.get(path)
        assert (ready.status_code, ready.text) == (200, "\n")
        service.is_ready = False
        assert (await client.get(path)).status_code == 503


async def test_the_version_is_the_newest_that_replicas_tell_of() -> None:
    models = {
        name: FakeModel(FRAME.model_copy(update={"mlflow_version": version}), score)
        for name, version in (("a", "3.9.1"), ("b", "3.10.0"), ("c", ""))
    }
    async with client_of(app_of(FakeInference(models))) as client:
        assert (await client.get("/version")).text == "3.10.0"
    async with client_of(app_of(FakeInference({"c": models["c"]}))) as client:
        assert (await client.get("/version")).status_code == 503
