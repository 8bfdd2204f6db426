"""The port's thread against a store that is told what to answer."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import numpy as np
import pytest

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, StateStoreError
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.answers import Beat, JobWithBytes, LeasedJobs
from penstock.shared.jobs.calls import OUTPUT_BYTES_MAX, Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.payload import VERSION, JobInput, pack_input
from penstock.shared.jobs.record import Content, JobState
from penstock.shared.wire.messages import Final, Nack, NackReason, Request
from penstock.shared.wire.tensors import Buffer, tensor_from_array
from penstock.worker.job_line.messages import (
    Began,
    Ended,
    FromPort,
    Gone,
    Leased,
    LeaseTerms,
    Leave,
    Pull,
    Told,
)
from penstock.worker.job_port.port import JobPort
from penstock.worker.replica.mailbox import Mailbox
from tests.support.waiting import wait_until
from tests.unit.shared.hostile_msgpack import array, nested
from tests.unit.worker.job_port.test_leases import record

TERMS = LeaseTerms("m", "r", "holder", lease_s=15.0, heartbeat_s=0.05, store_bytes_max=1 << 30)
SPEC = TensorSpec(name="x", datatype="FP64", shape=(-1,))
INTERFACE = ModelInterface(inputs=(SPEC,), outputs=(), max_batch_size=4, platform="test")
LARGE = bytes(OUTPUT_BYTES_MAX + 1)
LARGE_TYPE = Content("image/png", len(LARGE))
JOB_ID = f"{1:032x}"


def body(name: str = "x") -> bytes:
    return bytes(pack_input(JobInput("", Request(0, 0, (tensor_from_array(name, np.zeros(1)),)))))


@dataclass
class FakeStore:
    """Answers as a store would; `away` and `refuses` make it fail."""

    waiting: deque[JobWithBytes] = field(default_factory=deque)
    calls: list[Call[Any]] = field(default_factory=list)
    away: bool = False
    refuses: Callable[[Call[Any]], bool] = lambda call: False

    def durability(self) -> Durability:
        return Durability.ALWAYS

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        if self.away:
            raise StateStoreError("away")
        self.calls += calls
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call[Any]) -> Any:
        if self.refuses(call):
            return StateStoreError("not confirmed")
        match call.script:
            case "lease":
                return LeasedJobs([self.waiting.popleft()] if self.waiting else [], 0)
            case "heartbeat":
                return Beat.CONTINUE
            case "commit":
                return JobState.SUCCEEDED
            case "fail":
                return JobState.FAILED
            case _:
                return JobState.QUEUED

    def sent(self, script: str) -> list[Call[Any]]:
        return [call for call in list(self.calls) if call.script == script]


class NoHints:
    def wait(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False


@dataclass
class FakeBlobs:
    """Keeps what it is given once `open`."""

    open: threading.Event = field(default_factory=threading.Event)
    kept: dict[str, bytes] = field(default_factory=dict)

    def put(self, job_id: str, data: Buffer) -> str:
        self.open.wait(10)
        name = f"{job_id}-{len(self.kept)}"
        self.kept[name] = bytes(data)
        return name

    def get(self, name: str) -> bytes:
        return self.kept[name]


class Bench:
    """A port that runs; made by the fixture `bench`."""

    def __init__(self, **options: Any) -> None:
        self.store, self.blobs = FakeStore(), FakeBlobs()
        self._mailbox: Mailbox[FromPort] = Mailbox()
        places = (self.store, NoHints(), NoHints(), self.blobs)
        self.port = JobPort(TERMS, INTERFACE, *places, self._mailbox.put, **options)

    def close(self, timeout_s: float) -> bool:
        """Have the port leave; whether it did in time."""
        self.port.tell(Leave())
        return self.port.wait(timeout_s)

    def hear(self) -> FromPort:
        """The next word of the port to the loop."""
        assert select.select([self._mailbox.wake_fd], [], [], 5)[0]
        (message,) = self._mailbox.collect()
        return message

    def lease(self, data: bytes | None = None, **changes: Any) -> Leased:
        """Have the port lease one job."""
        one = replace(record(JOB_ID, timeout_ms=changes.pop("timeout_ms", 0)), **changes)
        self.store.waiting.append(JobWithBytes(one, body() if data is None else data))
        self.port.tell(Pull(1, idle=True))
        message = self.hear()
        assert isinstance(message, Leased)
        return message

    def answer(self, answer: Final | Nack) -> None:
        self.port.tell(Ended([answer], time.monotonic()))

    def outputs(self) -> list[Content]:
        """All outputs that the store was told of."""
        contents = []
        beats = {call.arguments[2]: call for call in self.store.sent("heartbeat")}
        for call in beats.values():  # a beat that is sent twice counts once
            told = call.arguments[8:]
            for at in range(0, len(told), 4):
                contents.append(Content(str(told[at]), int(told[at + 1]), str(told[at + 2])))
        return contents


@pytest.fixture
def bench() -> Iterator[Bench]:
    live = Bench()
    live.port.start()
    yield live
    live.store.away, live.store.refuses = False, lambda call: False
    live.blobs.open.set()
    live.close(5)


def test_a_job_has_failed_when_its_timeout_is_over_and_what_comes_later_is_dropped(
    bench: Bench,
) -> None:
    (number,) = bench.lease(timeout_ms=50).numbers
    bench.port.tell(Began([number], 0.0, time.monotonic()))
    wait_until(lambda: bench.store.sent("fail"))
    bench.answer(Final(number))
    time.sleep(0.1)
    (failed,) = bench.store.sent("fail")
    assert failed.arguments[2] == ErrorCode.DEADLINE_EXCEEDED
    assert failed.arguments[4] == 0
    assert bench.store.sent("commit") == []


def test_an_answer_within_the_timeout_counts_however_late_the_port_hears_of_it(
    bench: Bench,
) -> None:
    (number,) = bench.lease(timeout_ms=50).numbers
    began = time.monotonic() - 60
    bench.port.tell(Began([number], 0.0, began))
    bench.port.tell(Ended([Final(number)], began + 0.01))
    wait_until(lambda: bench.store.sent("commit") or bench.store.sent("fail"))
    assert bench.store.sent("fail") == []


def test_the_last_large_output_is_told_before_the_job_ends(bench: Bench) -> None:
    (number,) = bench.lease().numbers
    bench.port.tell(Told(number, (LARGE_TYPE, LARGE)))
    bench.answer(Final(number))
    time.sleep(0.1)
    assert bench.store.sent("commit") == []
    bench.blobs.open.set()
    wait_until(lambda: bench.store.sent("commit"))
    assert [content.blob for content in bench.outputs()] == list(bench.blobs.kept)


def test_a_large_output_that_takes_too_long_keeps_no_result_waiting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.worker.job_port.port.OUTPUTS_WAIT_S", 0.1)
    (number,) = bench.lease().numbers
    bench.port.tell(Told(number, (LARGE_TYPE, LARGE)))
    bench.answer(Final(number))
    wait_until(lambda: bench.store.sent("commit"))


def test_outputs_told_while_a_beat_was_unanswered_are_told_before_the_end(bench: Bench) -> None:
    (number,) = bench.lease().numbers
    bench.store.away = True
    for each in range(3):
        bench.port.tell(Told(number, (Content("text/plain", each), bytes(each))))
        time.sleep(0.06)
    bench.answer(Final(number))
    bench.store.away = False
    wait_until(lambda: bench.store.sent("commit"))
    assert {content.size_bytes for content in bench.outputs()} == {0, 1, 2}


def test_who_holds_nothing_closes_at_once_while_the_store_is_away(bench: Bench) -> None:
    bench.store.away = True
    bench.port.tell(Pull(1, idle=True))
    time.sleep(0.1)
    began = time.monotonic()
    assert bench.close(10)
    assert time.monotonic() - began < 5


def test_an_input_of_another_version_is_given_back_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.worker.job_port.port.OTHER_VERSION_S", 0.1)
    _, *rest = msgpack.unpackb(body())
    leased = bench.lease(msgpack.packb([VERSION + 1, *rest]))
    assert (len(leased.numbers), leased.jobs) == (1, [])
    assert bench.store.sent("release") == []
    wait_until(lambda: bench.store.sent("release"))
    assert bench.hear() == Gone(leased.numbers[0])
    assert bench.store.sent("fail") == []


def test_a_moved_job_that_does_not_fit_fails_and_names_both_versions(bench: Bench) -> None:
    leased = bench.lease(body("old"), moved_from="7")
    assert (leased.numbers, leased.jobs) == ([], [])
    wait_until(lambda: bench.store.sent("fail"))
    (failed,) = bench.store.sent("fail")
    assert failed.arguments[2] == ErrorCode.INVALID_INPUT
    for words in ("version '7'", "version '1'", "'x' is missing"):
        assert words in str(failed.arguments[3])


@pytest.mark.parametrize(
    "data",
    [
        nested(20_000),
        msgpack.packb([VERSION, "", nested(20_000)]),
        array(400_000, b"\x80"),
        b"\x93",
    ],
    ids=["arrays in arrays", "arrays in arrays within its envelope", "empty maps", "cut"],
)
def test_a_job_whose_data_is_hostile_fails_with_a_reason_and_harms_no_other(
    bench: Bench, data: bytes
) -> None:
    leased = bench.lease(data)
    assert (leased.numbers, leased.jobs) == ([], [])
    wait_until(lambda: bench.store.sent("fail"))
    (failed,) = bench.store.sent("fail")
    assert failed.arguments[2] == ErrorCode.INTERNAL
    assert "the job's input cannot be read" in str(failed.arguments[3])
    assert len(bench.lease().jobs) == 1


def test_a_failure_does_not_repeat_names_of_any_length(bench: Bench) -> None:
    bench.lease(bytes(pack_input(JobInput("", _named("x", "y" * 100_000)))), moved_from="7")
    wait_until(lambda: bench.store.sent("fail"))
    (failed,) = bench.store.sent("fail")
    assert "it has no input 'yyy" in str(failed.arguments[3])
    assert len(str(failed.arguments[3])) < 1000


def _named(*names: str) -> Request:
    return Request(0, 0, tuple([tensor_from_array(name, np.zeros(1)) for name in names]))


def test_a_result_is_sent_until_it_is_confirmed_as_long_as_heartbeats_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.worker.job_port.store_calls.RETRY_S", 0.001)
    monkeypatch.setattr("penstock.worker.job_port.store_calls.RETRY_S_MAX", 0.001)
    bench.port._calls._retry_s = 0.001
    (number,) = bench.lease().numbers
    bench.store.refuses = lambda call: (
        call.script == "commit" and len(bench.store.sent("commit")) < 60
    )
    bench.answer(Final(number))
    wait_until(lambda: len(bench.store.sent("commit")) == 60)


def test_a_refused_job_is_given_back(bench: Bench) -> None:
    (number,) = bench.lease().numbers
    bench.answer(Nack(number, NackReason.DRAINING))
    wait_until(lambda: bench.store.sent("release"))


def test_a_port_that_follows_another_returns_its_jobs_before_it_leases() -> None:
    bench = Bench(numbers_after=17, inherits=True)
    bench.store.away = True
    bench.port.start()
    bench.store.waiting.append(JobWithBytes(record(JOB_ID), body()))
    bench.port.tell(Pull(1, idle=True))
    time.sleep(0.15)
    bench.store.away = False
    leased = bench.hear()
    assert isinstance(leased, Leased)
    assert list(leased.numbers) == [18]
    scripts = [call.script for call in bench.store.calls]
    assert scripts[:2] == ["lose", "lease"]
    assert bench.store.sent("lose")[0].arguments[0] == TERMS.holder
    assert bench.close(5)
