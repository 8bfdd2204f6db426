"""`tritonclient.http`, unchanged, against the whole system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from penstock.shared.wire.tensors import AnyArray
from tests.e2e.system import LocalSystem
from tests.e2e.test_swap import load_of


@pytest.fixture
def client(demo_system: LocalSystem) -> Iterator[Any]:
    connection = triton.InferenceServerClient(demo_system.url.removeprefix("http://"))
    yield connection
    connection.close()


def image_input(images: AnyArray, binary: bool) -> Any:
    tensor = triton.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata()["name"] == "penstock"
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_gives_what_the_version_gives_directly(
    client: Any, demo_system: LocalSystem, tmp_path: Path, binary_in: bool, binary_out: bool
) -> None:
    load = load_of(demo_system, tmp_path)
    images = load.images[:17]
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("label", "probabilities")
    ]
    result = client.infer(
        "digits", [image_input(images, binary_in)], outputs=outputs, request_id="seventeen"
    )
    response = result.get_response()
    right = load.expected[response["model_version"]][:17]
    assert response["id"] == "seventeen"
    assert np.allclose(result.as_numpy("probabilities"), right, atol=1e-5)
    assert result.as_numpy("label").tolist() == right.argmax(axis=1).tolist()


def test_async_infer(client: Any, demo_system: LocalSystem, tmp_path: Path) -> None:
    load = load_of(demo_system, tmp_path)
    handles = [
        client.async_infer("digits", [image_input(load.images[n : n + 1], True)]) for n in range(8)
    ]
    for number, handle in enumerate(handles):
        result = handle.get_result()
        right = load.expected[result.get_response()["model_version"]][number]
        assert result.as_numpy("label").tolist() == [right.argmax()]


def test_a_wrong_shape_is_named(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match=r"image.*64"):
        client.infer("digits", [image_input(np.zeros((1, 63), np.float32), True)])
