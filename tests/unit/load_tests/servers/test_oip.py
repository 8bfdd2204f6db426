"""What is written for our own server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from load_tests.server import Encoding, Inputs
from load_tests.servers.oip import JSON_LENGTH, infer_request

ROWS = np.array([[0.1, 2.0]], np.float32)
IDS = np.array([[7, 2**40]], np.int64)


@pytest.mark.parametrize(("inputs", "datatype"), [(ROWS, "FP32"), (IDS, "INT64")])
def test_tensors_are_written_as_what_they_are(inputs: Inputs, datatype: str) -> None:
    request = infer_request("m", Encoding.BINARY, inputs)
    length = int(request.headers[JSON_LENGTH])
    (tensor,) = json.loads(request.body[:length])["inputs"]
    assert (tensor["datatype"], tensor["shape"]) == (datatype, [1, 2])
    assert tensor["parameters"] == {"binary_data_size": inputs.nbytes}
    assert request.body[length:] == inputs.tobytes()


@pytest.mark.parametrize(("inputs", "data"), [(ROWS, "[0.1,2.0]"), (IDS, f"[7,{2**40}]")])
def test_numbers_are_as_short_as_they_can_be(inputs: Inputs, data: str) -> None:
    body = infer_request("m", Encoding.JSON, inputs).body.decode()
    assert f'"data":{data}' in body
