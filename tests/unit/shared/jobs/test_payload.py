"""Inputs and results of jobs go to bytes and back; other bytes are refused."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.errors import WireError
from penstock.shared.jobs.payload import (
    VERSION,
    JobInput,
    JobResult,
    pack_input,
    pack_result,
    unpack_input,
    unpack_result,
)
from penstock.shared.wire.codec import encode
from penstock.shared.wire.messages import Envelope, Final, Request
from penstock.shared.wire.tensors import Tensor

SIZES = [0, 1, 8 * 1024, 8 * 1024 + 1, 64 * 1024 - 1, 64 * 1024, 300 * 1024]
"""Around where tensors become frames, and frames longer heads."""


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


@given(st.text(max_size=300), st.lists(st.sampled_from(SIZES), max_size=20))
def test_it_is_what_msgpack_makes(client_id: str, sizes: list[int]) -> None:
    tensors = tuple(Tensor(str(at), "UINT8", (n,), bytes(n)) for at, n in enumerate(sizes))
    final = Final(3, tensors)
    packed = bytes(pack_result(JobResult(client_id, final)))
    assert packed == msgpack.packb([VERSION, client_id, *encode(Envelope("", (final,)))])
    assert unpack_result(packed) == JobResult(client_id, final)


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65535, 65536])
def test_ids_of_any_length(length: int) -> None:
    result = JobResult("i" * length, Final(1))
    packed = pack_result(result)
    assert msgpack.unpackb(packed)[1] == result.client_id
    assert unpack_result(packed) == result


def test_what_is_cut_or_longer_is_refused() -> None:
    packed = bytes(pack_result(JobResult("id", Final(1, (tensor(1000), tensor(3))))))
    for end in {*range(200), *range(0, len(packed), 97)}:
        with pytest.raises(WireError):
            unpack_result(packed[:end])
    with pytest.raises(WireError, match="1 bytes too many"):
        unpack_result(packed + b"\0")


@pytest.mark.parametrize("claim", [b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff"])
def test_claims_cost_nothing(claim: bytes) -> None:
    with pytest.raises(WireError, match="ends within"):
        unpack_result(claim + b"\x01\xa0" + b"\xc4\x00" * 1000)


def test_what_is_read_is_not_copied() -> None:
    packed = pack_result(JobResult("", Final(1, (tensor(100_000),))))
    assert isinstance(packed, memoryview)
    assert packed.readonly
    (found,) = unpack_result(packed).final.outputs
    assert np.shares_memory(np.frombuffer(found.data, np.uint8), np.frombuffer(packed, np.uint8))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.binary() | st.text(), st.lists).map(msgpack.packb)
)
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_input(data)
