"""A table of models: each is served as it would be, and answers as its own library does.

Every request is sent alone and then, in rounds, with the others by 16 callers at once, so that
batches form where they may. The library's answers are those to each request by itself.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.wire.tensors import Tensor, array_from_tensor, tensor_from_array
from penstock.worker.control.messages import LoadFailed, Ready
from tests.fault.served import Served, served
from tests.zoo import onnx_cases, pyfunc_cases, torch_cases
from tests.zoo.cases import BATCHED, NOT_BATCHED, Answers, Case, Inputs, difference

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]

CALLERS = 16
ROUNDS = 4
CASES: Sequence[Case] = [*onnx_cases.CASES, *torch_cases.CASES, *pyfunc_cases.CASES]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("zoo") / "gateway.log") as system:
        yield system


def infer(port: int, model: str, inputs: Inputs) -> Answers:
    """Call over HTTP, with all numbers as bytes."""
    tensors = [tensor_from_array(name, array) for name, array in inputs.items()]
    head = {
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": each.shape,
                "parameters": {"binary_data_size": len(bytes(each.data))},
            }
            for each in tensors
        ],
        "parameters": {"binary_data_output": True},
    }
    document = json.dumps(head).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/{model}/infer",
        document + b"".join(bytes(each.data) for each in tensors),
        {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(document)),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            size = answer.headers.get("Inference-Header-Content-Length")
            body = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error.code}: {error.read().decode()}") from None
    return _tensors(body, int(size) if size else len(body))


def _tensors(body: bytes, size: int) -> Answers:
    arrays, at = [], size
    for each in json.loads(body[:size])["outputs"]:
        length = each.get("parameters", {}).get("binary_data_size", 0)
        data = body[at : at + length]
        at += length
        tensor = Tensor(each["name"], each["datatype"], tuple(each["shape"]), data)
        array = array_from_tensor(tensor)
        if each["datatype"] == "BYTES":
            array = _texts(array)
        arrays.append(array)
    return arrays


def _texts(array: Any) -> Any:
    flat = [each.decode() if isinstance(each, bytes) else each for each in array.ravel()]
    texts = array.astype(object)
    texts.ravel()[:] = flat
    return texts


def max_batch_size(port: int, model: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}/config") as answer:
        return int(json.load(answer)["max_batch_size"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_model_answers_as_its_own_library_does(
    case: Case, system: Served, tmp_path: Path
) -> None:
    library = case.make(tmp_path / "m")
    own = [library(inputs) for inputs in case.requests]
    settings = ReplicaSettings(threads=1, max_batch_size=8)
    child = system.spawn(tmp_path / "m", model=case.id, settings=settings)
    try:
        message = child.hear((Ready, LoadFailed))
        assert isinstance(message, Ready), message
        system.until_ready(case.id, 1)
        _check(case, system.port, own)
        size = max_batch_size(system.port, case.id)
        assert case.batching is not NOT_BATCHED or size == 0
        assert case.batching is not BATCHED or size == case.limit
    finally:
        child.end()


def _check(case: Case, port: int, own: Sequence[Answers]) -> None:
    def wrong(number: int) -> str:
        ours = infer(port, case.id, case.requests[number])
        return difference(ours, own[number], values=case.repeatable)

    numbers = range(len(own))
    assert {number: why for number in numbers if (why := wrong(number))} == {}, "alone"
    many = [number for _ in range(ROUNDS * CALLERS) for number in numbers][: ROUNDS * CALLERS]
    with ThreadPoolExecutor(CALLERS) as callers:
        reasons = list(callers.map(wrong, many))
    assert {n: why for n, why in zip(many, reasons, strict=True) if why} == {}, "together"
