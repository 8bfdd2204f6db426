"""Reads what MLflow writes beside a model: flavors and signature of the `MLmodel` file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shared.tensors import DATATYPE_OF, TensorSpec


class MLmodelError(ValueError):
    """The `MLmodel` file is not what MLflow writes."""


@dataclass(frozen=True)
class MLmodel:
    """The part of an `MLmodel` file that serving needs.

    Attributes:
        flavors: by name, as MLflow wrote them.
        inputs, outputs: the signature's specs, with empty names where it names none; None if there
            is no signature, or none of tensors.
    """

    flavors: dict[str, dict[str, Any]]
    inputs: tuple[TensorSpec, ...] | None
    outputs: tuple[TensorSpec, ...] | None


def read_mlmodel(folder: Path) -> MLmodel | None:
    """The folder's `MLmodel` file, or None if there is none.

    Raises:
        MLmodelError: if it cannot be understood.
    """
    path = folder / "MLmodel"
    if not path.exists():
        return None
    try:
        document = yaml.safe_load(path.read_text())
        signature = document.get("signature") or {}
        return MLmodel(
            flavors=dict(document.get("flavors") or {}),
            inputs=_specs(signature.get("inputs")),
            outputs=_specs(signature.get("outputs")),
        )
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise MLmodelError(f"the MLmodel file cannot be read: {error}") from error


def _specs(packed: str | None) -> tuple[TensorSpec, ...] | None:
    """Tensor specs of one side of a signature; None for a signature of columns."""
    if not packed:
        return None
    entries = json.loads(packed)
    if any(entry.get("type") != "tensor" for entry in entries):
        return None
    return tuple(_spec(entry) for entry in entries)


def _spec(entry: dict[str, Any]) -> TensorSpec:
    tensor = entry["tensor-spec"]
    dtype = np.dtype(tensor["dtype"])
    datatype = "BYTES" if dtype.kind in "OUS" else DATATYPE_OF.get(dtype)
    if datatype is None:
        raise MLmodelError(f"signature has dtype {tensor['dtype']!r}, which has no datatype")
    return TensorSpec(name=entry.get("name") or "", datatype=datatype, shape=tensor["shape"])
