"""Models of every flavor in real replica processes, as MLflow saves them."""

from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.control.messages import LoadFailed
from penstock.worker.environments.cache import Environments
from tests.support import mlflow_models as models
from tests.support.data_plane import DataPlane, data_plane
from tests.support.waiting import eventually

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.5, 0.0, -1.0]]
SUMS = [[5.0, 8.0], [14.0, 17.0], [0.5, -2.0]]


def interface_of(plane: DataPlane) -> ModelInterface:
    return plane.service.metadata("m", None).interface


async def call(
    plane: DataPlane, inputs: dict[str, AnyArray], **parameters: Any
) -> dict[str, AnyArray]:
    """Call the model by the interface's order of inputs; its outputs by name."""
    tensors = [
        tensor_from_array(spec.name, inputs[spec.name])
        for spec in interface_of(plane).inputs
        if spec.name in inputs
    ]
    answer = await plane.service.infer(
        InferenceCall(
            "m", None, tuple(tensors), timeout_s=30.0, parameters=tuple(sorted(parameters.items()))
        )
    )
    return {tensor.name: array_from_tensor(tensor) for tensor in answer.outputs}


async def check_sums(plane: DataPlane) -> None:
    """Calls with one row each, at once: each gets its own answer."""
    (spec,) = interface_of(plane).inputs
    assert (spec.datatype, spec.shape) == ("FP32", (-1, models.WIDTH))
    calls = [call(plane, {spec.name: np.array([row], np.float32)}) for row in ROWS]
    for answer, expected in zip(await asyncio.gather(*calls), SUMS, strict=True):
        assert answer["output-0"].tolist() == [expected]


async def test_an_exported_program_of_any_batch_size(tmp_path: Path) -> None:
    folder = models.exported(tmp_path / "m", example_rows=4)
    async with data_plane() as plane:
        await plane.join(folder)
        assert interface_of(plane).max_batch_size == 32
        await check_sums(plane)
        answer = await call(plane, {"x": np.array(ROWS, np.float32)})
        assert answer["output-0"].tolist() == SUMS


async def test_an_exported_program_of_one_row(tmp_path: Path) -> None:
    folder = models.exported(tmp_path / "m", example_rows=1)
    async with data_plane() as plane:
        await plane.join(folder)
        assert interface_of(plane).max_batch_size == 32, "rows run one by one"
        await check_sums(plane)
        answer = await call(plane, {"x": np.array(ROWS, np.float32)})
        assert answer["output-0"].tolist() == SUMS


async def test_torchscript_of_any_and_of_a_fixed_batch_size(tmp_path: Path) -> None:
    for folder, limit in (
        (models.scripted(tmp_path / "any"), 32),
        (models.scripted(tmp_path / "fixed", rows=4), 4),
    ):
        async with data_plane() as plane:
            await plane.join(folder)
            assert interface_of(plane).max_batch_size == limit
            await check_sums(plane)


async def test_pickled_modules(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(models.eager(tmp_path / "eager"))
        assert interface_of(plane).outputs[0].shape == (-1, 2)
        await check_sums(plane)
    async with data_plane() as plane:
        await plane.join(models.two_outputs(tmp_path / "two"))
        a, b = np.array([2, 3], np.float32), np.array([5, 7], np.float32)
        answer = await call(plane, {"a": a, "b": b})
        assert {name: array.tolist() for name, array in answer.items()} == {
            "sum": [7.0, 10.0],
            "product": [10.0, 21.0],
        }


async def test_scikit_learn(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(models.regression(tmp_path / "m"))
        assert interface_of(plane).max_batch_size == 32
        calls = [call(plane, {"input-0": np.array([row])}) for row in ROWS]
        answers = await asyncio.gather(*calls)
        assert [a["output-0"].tolist() for a in answers] == [[6.0], [15.0], [-0.5]]


async def test_parameters_reach_the_model_and_never_mix(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(models.scaled(tmp_path / "m"))
        assert [spec.name for spec in interface_of(plane).parameters] == ["scale"]
        x = np.array([1.0])
        assert (await call(plane, {"x": x}))["y"].tolist() == [2.0]
        assert (await call(plane, {"x": x}, unknown=1))["y"].tolist() == [2.0]
        calls = [call(plane, {"x": x * n}, scale=float(n % 5)) for n in range(100)]
        answers = await asyncio.gather(*calls)
        assert [a["y"].tolist() for a in answers] == [[n * (n % 5)] for n in range(100)]


async def test_what_mixes_rows_by_a_parameter_or_for_want_of_an_input_gives_each_call_its_own(
    tmp_path: Path,
) -> None:
    async with data_plane() as plane:
        await plane.join(models.centring(tmp_path / "m"))
        assert interface_of(plane).max_batch_size == 32
        pay = [{"pay": np.array([float(n), n + 2.0])} for n in range(60)]
        share = np.ones(2)
        calls = [
            call(plane, each | {"share": share}, normalize=n % 2 == 0) for n, each in enumerate(pay)
        ]
        calls += [call(plane, each) for each in pay]
        answers = await asyncio.gather(*calls)
        own = [[-1.0, 1.0] if n % 2 == 0 else each["pay"].tolist() for n, each in enumerate(pay)]
        assert [a["y"].tolist() for a in answers[:60]] == own
        assert [a["y"].tolist() for a in answers[60:]] == [[-1.0, 1.0]] * 60


async def test_columns_of_a_data_frame(tmp_path: Path) -> None:
    people: dict[str, AnyArray] = {
        "pay": np.array([10.0, 20.0]),
        "factor": np.array([1.5, 2.0], np.float32),
        "age": np.array([17, 18], np.int32),
        "name": np.array(["Zoë", "Al"], np.object_),
        "born": np.array(["2009-05-01", "2008-01-02T03:04:05"], np.object_),
    }
    async with data_plane() as plane:
        await plane.join(models.people(tmp_path / "m"))
        assert {spec.name for spec in interface_of(plane).inputs if spec.optional} == {"bonus"}
        answer = await call(plane, people)
        assert answer["pay"].tolist() == [15.0, 40.0]
        assert answer["label"].tolist() == ["Zoë/2009".encode(), b"Al/2008"]
        assert answer["grown"].tolist() == [False, True]
        assert answer["born"].tolist()[1].startswith(b"2008-01-02T03:04:05")
        mixed = [call(plane, people), call(plane, people | {"bonus": np.array([1, 2])})]
        assert [a["pay"].tolist() for a in await asyncio.gather(*mixed)] == [
            [15.0, 40.0],
            [16.0, 42.0],
        ]


async def test_out_of_memory_halves_batches_and_fails_nobody(tmp_path: Path) -> None:
    async with data_plane() as plane:
        await plane.join(models.hungry(tmp_path / "m"))
        assert interface_of(plane).max_batch_size == 8, "what the warm-up could run"
        calls = [call(plane, {"input-0": np.array([float(n)])}) for n in range(1, 41)]
        answers = await asyncio.gather(*calls)
        assert [a["output-0"].tolist() for a in answers] == [[n * 10.0] for n in range(1, 41)]


async def among_good_ones(plane: DataPlane, bad: float) -> ErrorCode:
    """One bad call among 15 good ones: the good ones are answered; how the bad one failed."""
    good = [call(plane, {"input-0": np.array([float(n)])}) for n in range(15)]
    calls = [*good[:7], call(plane, {"input-0": np.array([bad])}), *good[7:]]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failure = answers.pop(7)
    assert isinstance(failure, PenstockError)
    assert [a for a in answers if isinstance(a, BaseException)] == []
    values = [a["output-0"].tolist() for a in answers if not isinstance(a, BaseException)]
    assert values == [[n * 10.0] for n in range(15)]
    return failure.code


async def test_what_makes_the_model_fail_fails_alone(tmp_path: Path) -> None:
    async with data_plane() as plane:
        child = await plane.join(models.moody(tmp_path / "m"))
        for _ in range(20):
            for bad in (77.0, 78.0):
                assert await among_good_ones(plane, bad) is ErrorCode.MODEL_ERROR
        assert child.process.poll() is None


async def test_a_row_too_few_is_the_answer_of_the_request_that_brings_it_and_ends_batching(
    tmp_path: Path,
) -> None:
    async with data_plane() as plane:
        await plane.join(models.moody(tmp_path / "m"))
        assert interface_of(plane).max_batch_size == 32
        values = [*range(1, 8), 79, *range(8, 16)]
        calls = [call(plane, {"input-0": np.array([float(value)])}) for value in values]
        answers = [answer["output-0"].tolist() for answer in await asyncio.gather(*calls)]
        assert answers == [[] if value == 79 else [value * 10.0] for value in values]
        await eventually(lambda: interface_of(plane).max_batch_size == 0)


REPLICAS = 4
THIRDS_MAX = 3
"""Rounds in which a third replica dies: the call had been hedged, and its two died together. That
looks like the death of their worker, for which no call may be blamed."""


async def killer_rounds(folder: Path, rounds: int) -> None:
    """Two replicas die of a query of death, seldom a third, and no other call notices."""
    async with data_plane() as plane:
        await asyncio.gather(*[plane.join(folder) for _ in range(REPLICAS)])
        for number in range(1, rounds + 1):
            assert await among_good_ones(plane, 99.0) is ErrorCode.REPLICA_CRASHED
            # The gateway notices the last death a moment after its call has failed.
            await eventually(lambda: processes(plane) == sum(plane.service.ready_counts().values()))
            alive = processes(plane)
            assert len(plane.children) - alive <= 2 * number + THIRDS_MAX
            if number < rounds:
                await asyncio.gather(*[plane.join(folder) for _ in range(REPLICAS - alive)])


def processes(plane: DataPlane) -> int:
    """Replicas that live."""
    return sum(child.process.poll() is None for child in plane.children)


async def test_an_input_that_ends_the_process_fails_alone(tmp_path: Path) -> None:
    await killer_rounds(models.moody(tmp_path / "m"), rounds=1)


@pytest.mark.slow
async def test_an_input_that_ends_the_process_fails_alone_twenty_times(tmp_path: Path) -> None:
    await killer_rounds(models.moody(tmp_path / "m"), rounds=20)


async def test_a_model_that_lacks_packages_says_which(tmp_path: Path) -> None:
    requirements = ["penstock-not-there==1", "pandas<1"]
    folder = models.python_model(tmp_path / "m", lambda x, params: x, models.NUMBERS, requirements)
    async with data_plane() as plane:
        child = plane.spawn(folder)
        message = await asyncio.to_thread(child.hear, LoadFailed)
        assert isinstance(message, LoadFailed)
        assert not message.invalid
        assert "lacks packages that the model needs: penstock-not-there==1" in message.message
        assert "not <1" in message.message


@pytest.mark.long
async def test_a_model_with_an_environment_of_its_own(tmp_path: Path) -> None:
    """Another version of a package than ours, downloaded, in a real replica; ours is untouched."""

    def predict(x: Any, params: Any) -> Any:
        import importlib.metadata as metadata  # noqa: PLC0415 - runs in the replica

        return np.full(len(x), float(metadata.version("click").replace(".", "")))

    mlflow_version = importlib.metadata.version("mlflow-skinny")
    requirements = [f"mlflow-skinny=={mlflow_version}", "pandas", "cloudpickle", "click==8.1.7"]
    folder = models.python_model(tmp_path / "m", predict, models.NUMBERS, requirements)
    environments = Environments(tmp_path / "environments", 4)
    await environments.prepare(folder)
    isolated = (environments.interpreter(folder), "-I", "-m", "penstock.worker.replica")
    async with data_plane() as plane:
        await plane.join(folder, command=isolated)
        assert importlib.metadata.version("click") != "8.1.7"
        answer = await call(plane, {"input-0": np.array([1.0])})
        assert answer["output-0"].tolist() == [817.0]


async def test_callers_are_told_what_their_own_request_had_the_model_raise(tmp_path: Path) -> None:
    """Of a batch that fails, each request runs alone: none hears of another's data."""
    async with data_plane() as plane:
        await plane.join(models.moody(tmp_path / "m"), error_details=True)
        values = [float(value) for value in (*range(20), 77)]
        calls = [call(plane, {"input-0": np.array([value])}) for value in values]
        *answers, failure = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(failure, PenstockError)
        assert failure.message.endswith(": RuntimeError: 77 is too much")
        for value, answer in zip(values, answers, strict=False):
            assert isinstance(answer, dict)
            assert answer["output-0"].tolist() == [value * 10]
