"""Jobs, outputs and events as JSON."""

from __future__ import annotations

import base64

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.jobs.documents import (
    as_json,
    event_text,
    job_event_text,
    output_document,
    time_text,
)
from penstock.shared.jobs.answers import JobEvent, Progress
from penstock.shared.jobs.payload import RESULT_TYPE, JobResult, pack_result
from penstock.shared.jobs.record import Content, JobState
from penstock.shared.wire.messages import Final
from penstock.shared.wire.tensors import Tensor, tensor_from_array

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(json_values)
def test_an_event_is_one_event_whatever_it_says(value: object) -> None:
    lines = event_text("output", value, "1-0").decode().split("\n")
    assert lines[:2] == ["id: 1-0", "event: output"]
    assert orjson.loads(lines[2].removeprefix("data: ")) == value
    assert lines[3:] == ["", ""]


@given(st.sampled_from(["application/json", "text/plain; charset=x", "image/png"]), st.binary())
def test_any_output_is_shown(media_type: str, body: bytes) -> None:
    document = orjson.loads(as_json(output_document(Content(media_type, len(body)), body)))
    (shown,) = document.keys() - {"media_type", "size_bytes"}
    if shown == "base64":
        assert base64.b64decode(document["base64"]) == body
    elif shown == "text":
        assert document["text"].encode() == body
    else:
        assert document["json"] == orjson.loads(body)


def test_tensors_are_shown_as_in_an_answer() -> None:
    array = tensor_from_array("y", np.array([[1, 2]], np.float32))
    bytes_no_text = Tensor("b", "BYTES", (1,), b"\1\0\0\0\xff")
    body = bytes(pack_result(JobResult("", Final(0, (array, bytes_no_text)))))
    document = orjson.loads(as_json(output_document(Content(RESULT_TYPE, len(body)), body)))
    assert document["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]},
        {"name": "b", "datatype": "BYTES", "shape": [1], "base64": "AQAAAP8="},
    ]


def test_what_is_not_shown() -> None:
    content = Content("image/png", 9)
    assert output_document(content, None) == {"media_type": "image/png", "size_bytes": 9}


def test_each_kind_of_event() -> None:
    def data(event: JobEvent) -> object:
        return orjson.loads(job_event_text(event, event.body).decode().split("data: ")[1])

    at = {"at": "1970-01-01T00:00:01.500Z"}
    assert data(JobEvent("1-0", 1500, state=JobState.RUNNING)) == {**at, "state": "running"}
    told = {"fraction": 0.5, "message": "half", "estimated": True}
    assert data(JobEvent("1-0", 1500, progress=Progress(0.5, "half", True))) == {**at, **told}
    output = JobEvent("1-0", 1500, output=Content("text/plain", 2), body=b"ab")
    shown = {"media_type": "text/plain", "size_bytes": 2, "text": "ab"}
    assert data(output) == {**at, **shown}


def test_times() -> None:
    assert time_text(0) is None
    assert time_text(1) == "1970-01-01T00:00:00.001Z"
