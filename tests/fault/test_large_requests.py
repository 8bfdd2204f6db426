"""Requests of more rows than a batch, through real replicas: in order, and in nobody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from tests.support import mlflow_models, models
from tests.support.data_plane import DataPlane, data_plane, rows
from tests.support.waiting import eventually

EIGHT = ReplicaSettings(threads=1, max_batch_size=8)
INPUT = "input-0"


async def numbers(plane: DataPlane, array: AnyArray, timeout_s: float = 20.0) -> AnyArray:
    """What a model of `mlflow_models` answers to numbers."""
    inputs = (tensor_from_array(INPUT, array),)
    answer = await plane.service.infer(InferenceCall("m", None, inputs, timeout_s=timeout_s))
    return array_from_tensor(answer.outputs[0])


async def test_ten_thousand_rows_come_back_in_order_from_all_replicas(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        for _ in range(2):
            await plane.join(folder, settings=EIGHT)
        wanted = np.arange(20_000, dtype=np.float32).reshape(10_000, 2)
        answer = await plane.answer(wanted)
        assert array_from_tensor(answer.outputs[0]).tolist() == (wanted * 2).tolist()
        assert answer.batch_rows == 8
        assert plane.service.large_calls.pieces == 1250
        assert not plane.service.open_calls()


async def test_many_at_once_get_their_own_rows_and_a_killed_replica_costs_none(
    tmp_path: Path,
) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        doomed = await plane.join(folder, settings=EIGHT)
        await plane.join(folder, settings=EIGHT)
        arrays = [rows(*range(start, start + 2_000)) for start in range(0, 20_000, 2_000)]
        calls = [asyncio.create_task(plane.infer(array)) for array in arrays]
        await eventually(lambda: plane.service.large_calls.pieces > 50)
        await asyncio.to_thread(doomed.kill)
        for array, answer in zip(arrays, await asyncio.gather(*calls), strict=True):
            assert answer.tolist() == (array * 2).tolist()


async def test_a_swap_in_the_midst_of_it_gives_one_versions_answer(tmp_path: Path) -> None:
    async with data_plane() as plane:
        old = await plane.join(models.affine(tmp_path / "1", 2.0), settings=EIGHT)
        array = rows(*range(5_000))
        calls = [asyncio.create_task(plane.answer(array)) for _ in range(4)]
        await eventually(lambda: plane.service.large_calls.pieces > 50)
        await plane.join(
            models.affine(tmp_path / "2", 3.0), version="2", generation=2, settings=EIGHT
        )
        plane.drain(old)
        for answer in await asyncio.gather(*calls):
            scale = {"1": 2, "2": 3}[answer.version]
            assert array_from_tensor(answer.outputs[0]).tolist() == (array * scale).tolist()


async def test_a_row_that_fails_is_told_and_others_go_on(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(mlflow_models.moody(tmp_path / "m"), settings=EIGHT)
        array = np.arange(60.0)
        array[21] = 77
        bad, good = numbers(plane, array), numbers(plane, np.arange(60.0))
        failure, answer = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(failure, PenstockError)
        assert failure.code is ErrorCode.MODEL_ERROR
        assert failure.message.startswith("rows 16 to 23 of 60 (from 0): ")
        assert isinstance(answer, np.ndarray)
        assert answer.tolist() == (np.arange(60.0) * 10).tolist()


async def test_a_model_that_returns_a_row_too_few_is_passed_on_whole(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(mlflow_models.moody(tmp_path / "m"), settings=EIGHT)
        array = np.array([*range(30), 79, *range(30)], float)
        answer = await numbers(plane, array)
        assert answer.tolist() == (array * 10)[:-1].tolist()  # as the model has it, nothing else


async def test_what_mixes_rows_by_a_parameter_or_for_want_of_an_input_is_never_cut(
    tmp_path: Path,
) -> None:
    async with data_plane() as plane:
        await plane.join(mlflow_models.centring(tmp_path / "m"), settings=EIGHT)
        pay = np.arange(100.0)

        async def answer(parameters: tuple[tuple[str, bool], ...], *, share: bool) -> AnyArray:
            inputs = [tensor_from_array("pay", pay)]
            if share:
                inputs.append(tensor_from_array("share", np.full(100, 2.0)))
            call = InferenceCall("m", None, tuple(inputs), (), parameters, timeout_s=20.0)
            return array_from_tensor((await plane.service.infer(call)).outputs[0])

        assert (await answer((), share=True)).tolist() == (pay * 2).tolist()
        centred = await answer((("normalize", True),), share=True)
        assert centred.tolist() == ((pay - pay.mean()) * 2).tolist()
        assert (await answer((), share=False)).tolist() == (pay - pay.mean()).tolist()


async def test_a_small_call_waits_for_one_piece_and_a_cancelled_request_for_none(
    tmp_path: Path,
) -> None:
    async with data_plane() as plane:
        await plane.join(
            mlflow_models.noting(tmp_path / "m", 20.0, tmp_path / "notes"), settings=EIGHT
        )
        begun = (tmp_path / "notes").read_text().count("\n")
        large = asyncio.create_task(numbers(plane, np.arange(800.0)))
        await eventually(lambda: plane.service.large_calls.pieces > 2)
        pieces = plane.service.large_calls.pieces
        assert (await numbers(plane, np.array([7.0]))).tolist() == [70]
        assert plane.service.large_calls.pieces - pieces <= 2
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert not plane.service.open_calls()
        await asyncio.sleep(0.1)
        executed = (tmp_path / "notes").read_text().count("\n") - begun
        await asyncio.sleep(0.1)
        assert (tmp_path / "notes").read_text().count("\n") - begun == executed < 400
