"""A model's interface in the words of Triton's model configuration; pure."""

from __future__ import annotations

from typing import Any

from penstock.gateway.inference.types import ModelMetadata
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import PRIORITY_DEFAULT, PRIORITY_LOWEST

_TYPE_OF = {"BYTES": "TYPE_STRING"}

_BACKEND_OF = {"onnxruntime_onnx": "onnxruntime", "pytorch_torch": "pytorch"}
"""Triton's backend for each of its platforms; ours beyond that go by their platform's name."""


def model_config(metadata: ModelMetadata) -> dict[str, Any]:
    """What `GET /v2/models/{model}/config` answers.

    Only what this gateway knows: instances, devices and the queue delay are the workers' business.
    """
    interface = metadata.interface
    batches = interface.max_batch_size > 0
    config: dict[str, Any] = {
        "name": metadata.model,
        "platform": interface.platform,
        "backend": _BACKEND_OF.get(interface.platform, interface.platform),
        "version_policy": {"specific": {"versions": [_version(v) for v in metadata.versions]}},
        "max_batch_size": interface.max_batch_size,
        "input": [
            {**_tensor(spec, batches), "format": "FORMAT_NONE", "optional": spec.optional}
            for spec in interface.inputs
        ],
        "output": [_tensor(spec, batches) for spec in interface.outputs],
        "parameters": _parameters(interface),
    }
    if batches:
        config["dynamic_batching"] = {
            "preserve_ordering": False,
            "priority_levels": PRIORITY_LOWEST,
            "default_priority_level": PRIORITY_DEFAULT,
        }
    return config


def _parameters(interface: ModelInterface) -> dict[str, Any]:
    """Those that a request may state, by datatype; and which inputs are texts of another kind."""
    stated = {spec.name: spec.datatype for spec in interface.parameters}
    for spec in (*interface.inputs, *interface.outputs):
        if spec.structured:
            stated[f"content_type.{spec.name}"] = "application/json"
    return {name: {"string_value": value} for name, value in stated.items()}


def _version(version: str) -> int | str:
    """Triton's versions are numbers, and so are MLflow's."""
    return int(version) if version.isdecimal() else version


def _tensor(spec: TensorSpec, batches: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": spec.name,
        "data_type": _TYPE_OF.get(spec.datatype, f"TYPE_{spec.datatype}"),
        "dims": list(spec.shape[1:] if batches else spec.shape),
    }
    if not entry["dims"]:  # Triton has no empty dims: one element, reshaped to none
        entry["dims"] = [1]
        entry["reshape"] = {"shape": []}
    return entry
