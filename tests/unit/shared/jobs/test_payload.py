"""Inputs and results of jobs go to bytes and back; other bytes are refused."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import WireError
from shared.jobs.payload import (
    JobInput,
    JobResult,
    pack_input,
    pack_result,
    unpack_input,
    unpack_result,
)
from shared.messages import Final, Request
from shared.tensors import Tensor


def tensor(rows: int) -> Tensor:
    data = np.arange(rows * 4, dtype="<f4").tobytes()
    return Tensor("x", "FP32", (rows, 4), data)


@pytest.mark.parametrize("rows", [0, 1, 10_000])
@pytest.mark.parametrize("client_id", ["", "request 7"])
def test_what_is_packed_is_unpacked(rows: int, client_id: str) -> None:
    request = Request(1, 2, (tensor(rows),), outputs=("y",), parameters=(("a", 1.5),))
    found = unpack_input(pack_input(JobInput(client_id, request)))
    assert found == JobInput(client_id, request)
    final = Final(1, (tensor(rows), tensor(3)), infer_us=7)
    assert unpack_result(pack_result(JobResult(client_id, final))) == JobResult(client_id, final)


def test_one_is_not_taken_for_the_other() -> None:
    with pytest.raises(WireError, match="no request"):
        unpack_input(pack_result(JobResult("", Final(1))))
    with pytest.raises(WireError, match="no answer"):
        unpack_result(pack_input(JobInput("", Request(1, 0, ()))))


def test_another_version_is_refused() -> None:
    _, *rest = msgpack.unpackb(pack_input(JobInput("", Request(1, 0, ()))))
    with pytest.raises(WireError, match="version 2"):
        unpack_input(msgpack.packb([2, *rest]))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.binary() | st.text(), st.lists).map(msgpack.packb)
)
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_input(data)
