"""How the peers are asked and answer."""

from __future__ import annotations

import json

import msgpack
import numpy as np
import pytest

from load_tests.peers.protocols import OipProtocol, RowsProtocol, WireProtocol
from load_tests.server import Encoding, ServerError

ROWS = np.array([[0.1, 2.0], [-3.5, 1e-7]], np.float32)
EITHER = RowsProtocol("/infer/{model}", encodings=(Encoding.JSON, Encoding.MSGPACK))
BARE = RowsProtocol("/predict", output_field=None)
OIP = OipProtocol((Encoding.JSON, Encoding.BINARY))


def test_rows_as_json_have_the_digits_of_fp32() -> None:
    request = EITHER.request("iris", Encoding.JSON, ROWS)
    assert request.path == "/infer/iris"
    assert request.headers == {"content-type": "application/json"}
    assert json.loads(request.body) == {"inputs": [[0.1, 2.0], [-3.5, 1e-7]]}


def test_rows_as_msgpack_are_raw_bytes_with_a_shape() -> None:
    request = EITHER.request("iris", Encoding.MSGPACK, ROWS)
    message = msgpack.unpackb(request.body)
    assert message == {"shape": [2, 2], "data": ROWS.tobytes()}
    assert not request.body.startswith(b"{")  # by which the app tells them apart


def test_answers_in_json() -> None:
    assert np.array_equal(EITHER.answer(Encoding.JSON, {}, b'{"outputs":[[1,2]]}'), [[1, 2]])
    assert np.array_equal(BARE.answer(Encoding.JSON, {}, b"[[1,2],[3,4]]"), [[1, 2], [3, 4]])


def test_an_answer_in_msgpack() -> None:
    body = msgpack.packb({"shape": [2, 2], "data": ROWS.tobytes()})
    assert np.array_equal(EITHER.answer(Encoding.MSGPACK, {}, body), ROWS)


@pytest.mark.parametrize(
    ("protocol", "encoding", "body"),
    [
        (EITHER, Encoding.JSON, b""),
        (EITHER, Encoding.JSON, b"[]"),
        (EITHER, Encoding.JSON, b'{"error":"busy"}'),
        (EITHER, Encoding.JSON, b'{"outputs":[1,2]}'),
        (EITHER, Encoding.JSON, b'{"outputs":[[1],[2,3]]}'),
        (EITHER, Encoding.JSON, b'{"outputs":[["a"]]}'),
        (EITHER, Encoding.MSGPACK, b""),
        (EITHER, Encoding.MSGPACK, b"\xc1"),
        (EITHER, Encoding.MSGPACK, b"\x80"),
        (EITHER, Encoding.MSGPACK, b"\x90"),
        (EITHER, Encoding.MSGPACK, msgpack.packb({"shape": [2, 2], "data": b"1234"})),
        (EITHER, Encoding.MSGPACK, msgpack.packb({"shape": [1], "data": b"1234"})),
        (BARE, Encoding.JSON, b'{"outputs":[[1,2]]}'),
        (OIP, Encoding.JSON, b'{"outputs":[]}'),
        (OIP, Encoding.JSON, b'{"outputs":[{"name":"y","shape":[2],"data":[1,2]}]}'),
    ],
)
def test_what_holds_no_rows_is_refused(
    protocol: WireProtocol, encoding: Encoding, body: bytes
) -> None:
    with pytest.raises(ServerError):
        protocol.answer(encoding, {}, body)


@pytest.mark.parametrize("encoding", OIP.encodings)
def test_the_open_inference_protocol_asks_by_the_models_path(encoding: Encoding) -> None:
    request = OIP.request("iris", encoding, ROWS)
    assert request.path == "/v2/models/iris/infer"
    assert request.body.endswith(ROWS.tobytes()) == (encoding is Encoding.BINARY)


def test_an_answer_of_the_open_inference_protocol_with_raw_bytes() -> None:
    header = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2,2]}]}'
    headers = {"inference-header-content-length": str(len(header))}
    assert np.array_equal(OIP.answer(Encoding.BINARY, headers, header + ROWS.tobytes()), ROWS)
