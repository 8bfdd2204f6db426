"""Bodies in MLflow's words that a gateway passes on, and answers that replicas word."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest

from penstock.gateway.http.bodies.element_bounds import LARGE_BYTES
from penstock.gateway.http.scoring.formats import ParsedScoring, read_kserve, read_mlflow
from penstock.gateway.http.scoring.outputs import (
    MlflowRefusalError,
    mlflow_predictions,
    scored,
)
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface, Scoring
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.messages import WORDED, is_worded
from penstock.shared.wire.tensors import (
    SCORING,
    Tensor,
    array_from_tensor,
    is_scoring,
    scoring_answer,
    tensor_from_array,
)
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, interface, spec
from tests.unit.gateway.http.scoring.test_scoring import post

JSON, CSV, PARQUET = b"application/json", b"text/csv", b"application/vnd.apache.parquet"
ELEMENTS = 1000


def model(scoring: Scoring, **said: Any) -> ModelInterface:
    table = interface([spec("x", "FP64", -1), spec("s", "BYTES", -1)], [spec("y", "FP64", -1)], 4)
    update = {"scoring": scoring, "platform": "mlflow_pyfunc", "table": True, **said}
    return table.model_copy(update=update)


def read(body: Any, scoring: Scoring, kind: bytes = JSON, **said: Any) -> ParsedScoring:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return read_mlflow(content, {b"content-type": kind}, model(scoring, **said), ELEMENTS)


GOOD = {"dataframe_records": [{"x": 1.5, "s": "a"}]}
ODD = {"dataframe_records": [{"x": 1.5, "s": None}]}


def test_what_tensors_say_goes_as_tensors() -> None:
    parsed = read(GOOD, "rest", returns="records", keys=("y",))
    assert [tensor.name for tensor in parsed.inputs] == ["x", "s"]
    assert (parsed.returns, parsed.keys, parsed.parameters) == ("records", ("y",), ())


@pytest.mark.parametrize(
    ("body", "scoring", "kind"),
    [
        (ODD, "rest", JSON),
        (ODD, "rows", JSON),
        (GOOD, "all", JSON),
        ({"messages": []}, "rest", JSON),
        (b"{", "rest", JSON),
        (b"x,s\n1,NA\n", "rest", CSV),
        (b"PAR1", "rest", PARQUET),
        ({**GOOD, "params": {"weights": [1]}}, "rest", JSON),
        ({"dataframe_records": [{"x": 1.0, "s": "a"}] * 5}, "rows", JSON),  # more than a batch
    ],
)
def test_all_else_goes_as_it_is(body: Any, scoring: Scoring, kind: bytes) -> None:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    parsed = read(body, scoring, kind)
    assert is_scoring(parsed.inputs)
    (tensor,) = parsed.inputs
    assert (bytes(tensor.data), tensor.rows) == (content, 1)
    assert dict(parsed.parameters) == {"content_type": kind.decode(), "max_elements": ELEMENTS}


def test_where_nothing_reads_bodies_they_are_refused() -> None:
    for body, kind in ((ODD, JSON), (b"PAR1", PARQUET), (b"{", JSON)):
        with pytest.raises(PenstockError) as refused:
            read(body, "", kind)
        assert refused.value.code is ErrorCode.INVALID_INPUT


@pytest.mark.parametrize("scoring", ["rest", "rows", "all"])
def test_a_body_of_more_values_than_allowed_is_passed_on_to_nobody(scoring: Scoring) -> None:
    with pytest.raises(PenstockError, match="at most"):
        read(b'{"inputs":[' + b"1," * 10 * LARGE_BYTES + b"1]}", scoring)


def test_answers_that_replicas_word_are_asked_for() -> None:
    parsed = read(GOOD, "rows")
    assert [tensor.name for tensor in parsed.inputs] == ["x", "s"]
    assert parsed.parameters == (WORDED,)
    assert is_worded(parsed.parameters)


async def test_no_client_can_ask_for_them() -> None:
    service = FakeInference()
    infer: dict[str, Any] = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
        "parameters": {WORDED[0]: WORDED[1]},
    }
    answer = await post(service, "/v2/models/double/infer", infer)
    assert (answer.status_code, service.calls) == (400, [])
    named = {**infer, "inputs": [{**infer["inputs"][0], "datatype": SCORING}]}
    assert (await post(service, "/v2/models/double/infer", named)).status_code == 400


def test_kserves_words_become_mlflows() -> None:
    body = orjson.dumps({"instances": [{"x": 1.5, "s": None}], "parameters": {"top": 3}})
    parsed = read_kserve(body, {}, model("rest"), ELEMENTS)
    said = json.loads(bytes(parsed.inputs[0].data))
    assert said == {"instances": [{"x": 1.5, "s": None}], "params": {"top": 3}}


def test_a_refusal_keeps_mlflows_code() -> None:
    said = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "why"}'
    with pytest.raises(MlflowRefusalError, match="why") as refused:
        scored(scoring_answer(said, 400))
    assert refused.value.mlflow_code == "RESOURCE_DOES_NOT_EXIST"
    assert bytes(scored(scoring_answer(b"{}", 200))) == b"{}"


def answer(*tensors: Tensor) -> InferenceAnswer:
    return InferenceAnswer("m", "1", tensors, 0.0, 0.0, 1)


def test_the_form_that_the_model_returns_is_that_of_the_answer() -> None:
    y = tensor_from_array("y", np.array([1.5, 2.0]))
    n = tensor_from_array("n", np.array([3, 4]))
    pyfunc = "mlflow_pyfunc"
    shown = {
        ("array", ()): [1.5, 2.0],
        ("records", ("0",)): [{"0": 1.5}, {"0": 2.0}],
        ("object", ("z",)): {"z": [1.5, 2.0]},
    }
    for (returns, keys), expected in shown.items():
        parts = mlflow_predictions(answer(y), pyfunc, returns, keys)  # type: ignore[arg-type]
        assert json.loads(b"".join(parts)) == {"predictions": expected}
    rows = b"".join(mlflow_predictions(answer(y, y), pyfunc, "array", ()))
    assert json.loads(rows) == {"predictions": [[1.5, 1.5], [2.0, 2.0]]}
    both = b"".join(mlflow_predictions(answer(y, n), pyfunc, "records", ("a", "b")))
    assert json.loads(both) == {"predictions": [{"a": 1.5, "b": 3}, {"a": 2.0, "b": 4}]}


async def test_tensors_of_any_name_are_for_a_model_without_a_signature() -> None:
    nothing = ModelInterface(
        inputs=(), outputs=(), max_batch_size=0, platform="mlflow_pyfunc", open_inputs=True
    )
    service = FakeInference(models={"m": FakeModel(nothing, lambda arrays: arrays)})
    given = [
        {"name": "one", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]},
        {"name": "two", "datatype": "BYTES", "shape": [3], "data": ["a", "ü", ""]},
    ]
    await post(service, "/v2/models/m/infer", {"inputs": given})
    one, two = service.calls[0].inputs
    assert (one.name, one.datatype, one.shape) == ("one", "INT64", (2, 1))
    assert array_from_tensor(two).tolist() == [b"a", "ü".encode(), b""]
    for odd in ([], [{**given[0], "shape": None}], [{**given[0], "datatype": "INT7"}]):
        refused = await post(service, "/v2/models/m/infer", {"inputs": odd})
        assert refused.status_code == 400, refused.text
