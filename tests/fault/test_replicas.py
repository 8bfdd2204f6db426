"""Real replica processes: answers, batches, and what becomes of calls when replicas die."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from penstock.gateway.dispatch.counters import CancelReason
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.worker.control.messages import LoadFailed
from tests.support import models
from tests.support.data_plane import data_plane, rows
from tests.support.waiting import eventually


async def test_answers_are_each_their_own_in_batches(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 3.0)
    async with data_plane() as plane:
        await plane.join(folder)
        answers = await asyncio.gather(*[plane.infer(rows(n, -n)) for n in range(200)])
        for number, answer in enumerate(answers):
            assert answer.tolist() == (rows(number, -number) * 3).tolist()


async def test_calls_gather_into_batches_while_the_runtime_is_busy(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 1.0)
    async with data_plane() as plane:
        await plane.join(folder)
        first = await plane.answer(rows(1))
        assert first.infer_s > 0
        answers = await asyncio.gather(*[plane.answer(rows(n)) for n in range(64)])
        assert {answer.version for answer in answers} == {"1"}


async def test_a_killed_replica_loses_no_call(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        first, _ = await plane.join(folder), await plane.join(folder)
        stop = asyncio.Event()
        answered = 0

        async def client(number: int) -> None:
            nonlocal answered
            while not stop.is_set():
                assert (await plane.infer(rows(number))).tolist() == (rows(number) * 2).tolist()
                answered += 1

        clients = [asyncio.create_task(client(n)) for n in range(32)]
        await eventually(lambda: answered > 500)
        os.kill(first.process.pid, signal.SIGSTOP)  # so that it holds calls
        await asyncio.sleep(0.2)
        await asyncio.to_thread(first.kill)
        before = answered
        await eventually(lambda: answered > before + 500)
        await plane.join(folder)
        stop.set()
        await asyncio.gather(*clients)
        counters = plane.service.counters
        assert counters.lost + sum(counters.hedges.values()) > 0, "it held calls"


async def test_a_replica_that_was_stopped_for_long_is_called_again(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        child = await plane.join(folder)
        os.kill(child.process.pid, signal.SIGSTOP)
        call = asyncio.create_task(plane.infer(rows(3)))
        await eventually(lambda: plane.service.counters.lost == 1)
        os.kill(child.process.pid, signal.SIGCONT)
        assert (await call).tolist() == [[6.0, 6.0]]
        assert (await plane.infer(rows(4))).tolist() == [[8.0, 8.0]]


async def test_the_only_replica_dies_and_its_successor_answers(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        first = await plane.join(folder)
        await plane.infer(rows(1))
        await asyncio.to_thread(first.kill)
        call = asyncio.create_task(plane.infer(rows(5)))
        await plane.join(folder)
        assert (await call).tolist() == [[10.0, 10.0]]


async def test_without_any_replica_calls_are_told_within_the_wait(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane(DispatchLimits(replica_wait_s=0.3)) as plane:
        first = await plane.join(folder)
        await asyncio.to_thread(first.kill)
        with pytest.raises(PenstockError) as failure:
            await plane.infer(rows(5))
        assert failure.value.code is ErrorCode.NO_READY_REPLICA


async def test_a_drained_replica_answers_what_it_accepted_and_ends(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        first = await plane.join(folder)
        second = await plane.join(folder, version="2", generation=2)
        calls = [asyncio.create_task(plane.answer(rows(n))) for n in range(100)]
        await asyncio.sleep(0)
        plane.drain(first)
        answers = await asyncio.gather(*calls)
        assert {answer.version for answer in answers} == {"2"}
        assert await asyncio.to_thread(first.process.wait, 10) == 0
        assert second.process.poll() is None


async def test_one_bad_input_among_good_ones_fails_alone(tmp_path: Path) -> None:
    folder = models.picky(tmp_path / "m")
    async with data_plane() as plane:
        await plane.join(folder)
        for _ in range(20):
            good = [plane.infer(np.array([n % 10])) for n in range(15)]
            bad = plane.infer(np.array([77]))
            *answers, failure = await asyncio.gather(*good, bad, return_exceptions=True)
            assert isinstance(failure, PenstockError)
            assert failure.code is ErrorCode.MODEL_ERROR
            values = [a.tolist() for a in answers if not isinstance(a, BaseException)]
            assert values == [[n % 10 * 10.0] for n in range(15)]


async def test_an_expired_call_is_answered_on_time_while_a_batch_runs(tmp_path: Path) -> None:
    folder = models.slow(tmp_path / "m")
    width = 1400
    async with data_plane() as plane:
        await plane.join(folder, settings=ReplicaSettings(threads=1, max_batch_size=512))
        load = [
            asyncio.create_task(plane.infer(np.ones((512, width), np.float32))) for _ in range(2)
        ]
        await asyncio.sleep(0.05)  # the first batch runs for several times as long as that
        with pytest.raises(PenstockError) as failure:
            await plane.infer(np.ones((1, width), np.float32), timeout_s=0.05)
        assert failure.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert not all(task.done() for task in load), "the answer did not wait for the batch"
        await asyncio.gather(*load)


async def test_a_cancelled_call_leaves_the_replicas_queue(tmp_path: Path) -> None:
    folder = models.slow(tmp_path / "m")
    async with data_plane() as plane:
        await plane.join(folder)
        calls = [
            asyncio.create_task(plane.infer(np.ones((32, 1400), np.float32))) for _ in range(50)
        ]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert plane.service.open_calls() == {}
        answer = await plane.answer(np.ones((1, 1400), np.float32))
        assert answer.outputs[0].shape == (1, 1400)
        assert (
            plane.service.counters.cancels[CancelReason.CLIENT] > 30
        )  # all but those that were answered before


async def test_a_static_batch_dimension_is_respected(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0, rows=4)
    signature = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]'
    (folder / "MLmodel").write_text(
        "flavors:\n  onnx:\n    data: model.onnx\n"
        f"signature:\n  inputs: '{signature}'\n  outputs: '{signature}'\n"
    )
    async with data_plane() as plane:
        await plane.join(folder)
        interface = plane.service.metadata("m", None).interface
        assert interface.max_batch_size == 4
        answers = await asyncio.gather(*[plane.infer(rows(n)) for n in range(11)])
        assert [a.tolist() for a in answers] == [(rows(n) * 2).tolist() for n in range(11)]


@pytest.mark.parametrize(
    ("content", "invalid", "words"),
    [
        (None, True, "no runtime serves"),
        (b"garbage", False, "cannot load model.onnx"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why(
    tmp_path: Path, content: bytes | None, invalid: bool, words: str
) -> None:
    (tmp_path / "m").mkdir()
    if content is not None:
        (tmp_path / "m" / "model.onnx").write_bytes(content)
    async with data_plane() as plane:
        child = plane.spawn(tmp_path / "m")
        message = await asyncio.to_thread(child.hear, LoadFailed)
        assert isinstance(message, LoadFailed)
        assert message.invalid is invalid
        assert words in message.message
        assert await asyncio.to_thread(child.process.wait, 10) != 0


async def test_a_replica_ends_with_its_agent(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        child = await plane.join(folder)
        child.control.close()
        await asyncio.to_thread(child.process.wait, 10)


async def test_a_short_model_that_suddenly_takes_long_loses_no_call(tmp_path: Path) -> None:
    """The loop runs short batches itself, and is silent when one takes long after all."""
    folder = models.enduring(tmp_path / "m")
    async with data_plane() as plane:
        child = await plane.join(folder)
        for _ in range(100):
            assert (await plane.infer(rows(1))).tolist() == rows(1).tolist()
        for _ in range(2):  # the second one on the thread
            long = asyncio.create_task(plane.infer(rows(40_000)))
            await asyncio.sleep(0.2)
            late = [asyncio.create_task(plane.infer(rows(n))) for n in range(10)]
            with pytest.raises(PenstockError) as failed:
                await plane.infer(rows(1), timeout_s=0.5)
            # The second time it is known how long such a batch takes, and the call is not let in.
            assert failed.value.code in (ErrorCode.DEADLINE_EXCEEDED, ErrorCode.QUEUE_FULL)
            assert not long.done()
            assert (await long).tolist() == rows(40_000).tolist()
            for number, answer in enumerate(await asyncio.gather(*late)):
                assert answer.tolist() == rows(number).tolist()
        assert child.process.poll() is None
