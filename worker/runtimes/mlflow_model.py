"""Reads what MLflow writes beside a model: flavors and signature of the `MLmodel` file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from penstock.shared.artifacts.flavors import MLMODEL_FILE, streams
from penstock.shared.contracts.deployment import ParameterSpec
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import DATATYPE_OF

COLUMN_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",  # ISO 8601
}

TEXT_KINDS = frozenset({"string", "datetime"})
"""Kinds of columns whose BYTES are text to the model."""
"""The datatype of each type of column, or of parameter, that a tensor can carry."""


ACTING_FLAVORS = frozenset(
    {"langchain", "llama_index", "openai", "dspy", "autogen", "crewai", "promptflow", "anthropic"}
)
"""Flavors of models that call tools, and services that cost money."""

ACTING_LOADERS = frozenset(
    f"mlflow.pyfunc.loaders.{name}" for name in ("chat_model", "chat_agent", "responses_agent")
)
"""By which MLflow loads its classes of agents and chat models."""

ACTING_PARTS = ("resources", "auth_policy", "prompts")
"""What MLflow writes of a model that calls services, functions or language models."""

ACTING_VARIABLES = ("API_KEY", "API_TOKEN")
"""In names of variables of the environment that the model read as it was logged."""

TALK = frozenset({"messages", "input"})
"""Columns in which the signatures of MLflow's agents and chat models have a conversation."""

ACTING_TASKS = ("agent/", "llm/v1/")
"""How the tasks of agents and chat models begin, in metadata or in a flavor."""


class MLmodelError(ValueError):
    """The `MLmodel` file is not what MLflow writes, or its signature cannot be served."""


@dataclass(frozen=True)
class Column:
    """One column of a data frame; the name is empty where the signature names none.

    Attributes:
        kind: MLflow's name of its type, such as `double`.
        required: False if requests may leave it out.
    """

    name: str
    kind: str
    required: bool = True


@dataclass(frozen=True)
class MLmodel:
    """The part of an `MLmodel` file that serving needs.

    Attributes:
        flavors: by name, as MLflow wrote them.
        inputs, outputs: the signature's specs, with empty names where it names none; None if there
            is no signature, or none of tensors.
        input_columns, output_columns: likewise for a signature of columns.
        parameters: what a request may say beside its inputs.
        streams: whether it can give an answer in parts.
        body: the file with that example as MLflow's scoring server would get it; empty: none.
        example: the file with the author's `input_example`, in the model's folder; empty: none.
        acts: whether it may do things when it is called, as agents do.
        talks: whether it takes a conversation, as one object.
        hinted: whether its signature is made of the type hints of its code, so that it is given a
            list of what they say.
    """

    flavors: dict[str, dict[str, Any]]
    inputs: tuple[TensorSpec, ...] | None
    outputs: tuple[TensorSpec, ...] | None
    input_columns: tuple[Column, ...] | None = None
    output_columns: tuple[Column, ...] | None = None
    parameters: tuple[ParameterSpec, ...] = ()
    streams: bool = False
    example: str = ""
    body: str = ""
    acts: bool = False
    talks: bool = False
    hinted: bool = False


def read_mlmodel(folder: Path) -> MLmodel | None:
    """The folder's `MLmodel` file, or None if there is none.

    Raises:
        MLmodelError: if it cannot be understood.
    """
    path = folder / MLMODEL_FILE
    if not path.exists():
        return None
    try:
        document = yaml.safe_load(path.read_text())
        signature = document.get("signature") or {}
        flavors = dict(document.get("flavors") or {})
        return MLmodel(
            flavors=flavors,
            inputs=_specs(signature.get("inputs")),
            outputs=_specs(signature.get("outputs")),
            input_columns=_columns(signature.get("inputs")),
            output_columns=_columns(signature.get("outputs")),
            parameters=_parameters(signature.get("params")),
            streams=streams(flavors),
            example=_example(document.get("saved_input_example_info")),
            body=_named_json(document.get("saved_input_example_info"), "serving_input_path"),
            acts=_acts(flavors, document) or _talks(_columns(signature.get("inputs"))),
            talks=_talks(_columns(signature.get("inputs"))),
            hinted=bool(document.get("is_signature_from_type_hint")),
        )
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise MLmodelError(f"the MLmodel file cannot be read: {error}") from error


def named(specs: Iterable[TensorSpec], side: str) -> tuple[TensorSpec, ...]:
    """Specs in which those without a name are called `input-0`, or `output-0`, and so on."""
    return tuple(
        spec if spec.name else spec.model_copy(update={"name": f"{side}-{position}"})
        for position, spec in enumerate(specs)
    )


def column_specs(columns: Sequence[Column], side: str) -> tuple[TensorSpec, ...]:
    """The tensors, of one dimension each, that carry a data frame's columns."""
    specs = [
        TensorSpec(
            name=column.name,
            datatype=COLUMN_DATATYPES.get(column.kind, "BYTES"),
            shape=(-1,),
            optional=not column.required,
            text=column.kind in TEXT_KINDS or column.kind not in COLUMN_DATATYPES,
            structured=column.kind not in COLUMN_DATATYPES,
        )
        for column in columns
    ]
    return named(specs, side)


def _example(info: Any) -> str:
    """The payload that MLflow made of an example, or the example itself; a name in the folder."""
    return _named_json(info, "serving_input_path") or _named_json(info, "artifact_path")


def _named_json(info: Any, key: str) -> str:
    """The name of a file in the model's folder; empty if it is no such name."""
    name = str(info.get(key) or "") if isinstance(info, dict) else ""
    return name if "/" not in name and name.endswith(".json") else ""


def _talks(inputs: Sequence[Column] | None) -> bool:
    return any(column.name in TALK and column.kind == "array" for column in inputs or ())


def _acts(flavors: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    if any(document.get(part) for part in ACTING_PARTS):
        return True
    read = [str(name) for name in document.get("env_vars") or ()]
    if any(part in name for name in read for part in ACTING_VARIABLES):
        return True
    metadata = document.get("metadata")
    task = metadata.get("task") if isinstance(metadata, dict) else None
    tasks = [task, *[flavor.get("task") for flavor in flavors.values() if isinstance(flavor, dict)]]
    if any(str(each).startswith(ACTING_TASKS) for each in tasks if each):
        return True
    pyfunc = flavors.get("python_function")
    loader = str(pyfunc.get("loader_module", "")) if isinstance(pyfunc, dict) else ""
    return loader in ACTING_LOADERS or not ACTING_FLAVORS.isdisjoint(flavors)


def _entries(packed: str | None) -> list[dict[str, Any]]:
    return list(json.loads(packed)) if packed else []


def _specs(packed: str | None) -> tuple[TensorSpec, ...] | None:
    """Tensor specs of one side of a signature; None for a signature of columns."""
    entries = _entries(packed)
    if not entries or any(entry.get("type") != "tensor" for entry in entries):
        return None
    return tuple(_spec(entry) for entry in entries)


def _spec(entry: dict[str, Any]) -> TensorSpec:
    tensor = entry["tensor-spec"]
    dtype = np.dtype(tensor["dtype"])
    datatype = "BYTES" if dtype.kind in "OUS" else DATATYPE_OF.get(dtype)
    if datatype is None:
        raise MLmodelError(f"signature has dtype {tensor['dtype']!r}, which has no datatype")
    name, text = entry.get("name") or "", datatype == "BYTES"
    return TensorSpec(name=name, datatype=datatype, shape=tensor["shape"], text=text)


def _columns(packed: str | None) -> tuple[Column, ...] | None:
    entries = _entries(packed)
    if not entries or any(entry.get("type") == "tensor" for entry in entries):
        return None
    return tuple(
        Column(str(entry.get("name") or ""), str(entry["type"]), bool(entry.get("required", True)))
        for entry in entries
    )


def _parameters(packed: str | None) -> tuple[ParameterSpec, ...]:
    """Those whose values are scalars: requests cannot carry others, so their defaults hold."""
    return tuple(
        ParameterSpec(name=str(entry["name"]), datatype=COLUMN_DATATYPES[entry["type"]])
        for entry in _entries(packed)
        if entry.get("shape") is None and entry["type"] in COLUMN_DATATYPES
    )
