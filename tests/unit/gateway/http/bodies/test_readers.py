"""Processes that read large bodies: they end, are slow, are waited for by too many, and go."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.bodies import readers as module
from penstock.gateway.http.bodies.readers import BodyReaders
from penstock.gateway.http.bodies.wire import Question, ReaderGoneError, receive, send, untouched
from penstock.gateway.http.oip.format import OipFormat
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.scoring.formats import ParsedScoring
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import Buffer, Tensor
from tests.unit.gateway.http.fakes import interface, spec

pytestmark = pytest.mark.costly

MODEL = interface([spec("x", "FP32", -1)])
HEADERS = {b"content-type": b"application/json"}
START = b'{"inputs":[{"name":"x","datatype":"FP32","shape":['
WAIT_S = 30.0


def body(count: int) -> bytes:
    return START + b"%d" % count + b'],"data":[' + b"1," * (count - 1) + b"1]}]}"


SMALL, LARGE = body(10), body(2_000_000)


@pytest.fixture
def readers() -> Iterator[BodyReaders]:
    readers = BodyReaders()
    yield readers
    readers.close()


async def read(
    readers: BodyReaders, content: Buffer = SMALL, timeout_s: float | None = None
) -> ParsedInfer:
    return await readers.read(OipFormat(), [content], HEADERS, MODEL, 10**7, timeout_s)


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(each) for each in (task / "children").read_text().split()}
    return found


async def refused(reading: asyncio.Task[ParsedInfer]) -> ErrorCode:
    with pytest.raises(PenstockError) as caught:
        await reading
    return caught.value.code


async def test_what_a_body_says_comes_back(readers: BodyReaders) -> None:
    parsed = await read(readers)
    (tensor,) = parsed.inputs
    assert (tensor.name, tensor.shape) == ("x", (10,))
    assert bytes(tensor.data) == b"\0\0\x80?" * 10
    assert parsed.timeout_s is None


async def test_what_is_wrong_with_it_too(readers: BodyReaders) -> None:
    with pytest.raises(PenstockError, match="expected JSON") as caught:
        await read(readers, b"[" + SMALL)
    assert caught.value.code is ErrorCode.INVALID_INPUT


async def test_a_process_that_is_killed_fails_one_request(readers: BodyReaders) -> None:
    before = children()
    await read(readers)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    reading = asyncio.create_task(read(readers))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    assert await refused(reading) is ErrorCode.UNAVAILABLE
    assert (await read(readers)).inputs[0].shape == (10,)


async def test_a_process_that_ended_while_it_was_idle_is_replaced(readers: BodyReaders) -> None:
    before = children()
    await read(readers)
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert (await read(readers)).inputs[0].shape == (10,)


async def test_the_time_of_a_request_counts_while_its_body_is_read(readers: BodyReaders) -> None:
    before = children()
    await read(readers)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    try:
        reading = asyncio.create_task(read(readers, SMALL, 0.05))
        assert await refused(reading) is ErrorCode.DEADLINE_EXCEEDED
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await read(readers)).inputs[0].shape == (10,)


async def test_no_more_than_so_many_wait(
    readers: BodyReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    tasks = [asyncio.create_task(read(readers, LARGE)) for _ in range(module.READERS_MAX + 1)]
    await asyncio.sleep(0)
    assert await refused(asyncio.create_task(read(readers))) is ErrorCode.QUEUE_FULL
    for task in tasks:
        assert (await task).inputs[0].shape == (2_000_000,)
    assert (await read(readers)).inputs[0].shape == (10,)


async def test_a_body_that_nobody_waits_for_any_more_is_let_go(readers: BodyReaders) -> None:
    busy = [asyncio.create_task(read(readers, LARGE)) for _ in range(module.READERS_MAX)]
    waiting: list[Buffer] = [SMALL]
    given_up = asyncio.create_task(readers.read(OipFormat(), waiting, HEADERS, MODEL, 10**7))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert not waiting
    for task in busy:
        assert (await task).inputs[0].shape == (2_000_000,)


async def test_a_body_that_is_given_up_costs_no_process(readers: BodyReaders) -> None:
    before = children()
    await read(readers)
    known = children() - before
    gone = readers._read(Question("oip", {}, b"{}", 1), [])  # as if it was given up just now
    assert isinstance(gone, PenstockError)
    await read(readers)
    assert children() - before == known


async def test_the_end_of_all_fails_what_is_being_read(readers: BodyReaders) -> None:
    before = children()
    await read(readers)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    reading = asyncio.create_task(read(readers))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(readers.close)
    assert await refused(reading) is ErrorCode.UNAVAILABLE
    assert not children() - before


async def test_processes_that_have_nothing_to_do_end(
    readers: BodyReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", -0.9)
    before = children()
    await read(readers)
    assert children() - before
    give_up_s = time.monotonic() + WAIT_S
    while children() - before:
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.02)
    assert (await read(readers)).inputs[0].shape == (10,)


TENSORS = st.builds(
    lambda name, data, view: Tensor(
        name, "UINT8", (len(data),), memoryview(data) if view else data
    ),
    st.text(max_size=3),
    st.binary(max_size=9),
    st.booleans(),
)
INPUTS = st.lists(TENSORS, max_size=3).map(tuple)
NAMES = st.lists(st.text(max_size=3), max_size=3)
PARAMETERS = st.lists(st.tuples(st.text(max_size=3), st.integers() | st.text(max_size=3))).map(
    tuple
)
TIMES = st.none() | st.floats(0, 9)
PARSED = st.builds(
    ParsedInfer,
    st.none() | st.text(max_size=3),
    INPUTS,
    NAMES.map(tuple),
    NAMES.map(frozenset),
    st.booleans(),
    PARAMETERS,
    st.integers(1, 9),
    TIMES,
) | st.builds(ParsedScoring, INPUTS, PARAMETERS, st.text(max_size=3))


@given(PARSED)
def test_records_come_as_they_are_sent(parsed: ParsedInfer | ParsedScoring) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sending = threading.Thread(target=send, args=(ours, parsed))
        sending.start()
        assert receive(theirs, untouched) == parsed
        sending.join()


def test_an_end_amid_a_message_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    question = Question("oip", {}, b"{}", 1, pickle.PickleBuffer(b"body"))
    with theirs:
        send(ours, question)
        ours.close()
        received = receive(theirs, bytearray)
        assert (received.payload, received.body) == ("oip", b"body")
        with pytest.raises(ReaderGoneError):
            receive(theirs, bytearray)
