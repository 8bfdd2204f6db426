"""What goes into a model's own environment: its requirements, and what a replica needs beside them.

A `Recipe` is all that an environment's content depends on, so its digest is the environment's name
in the cache, and two models with the same requirements share one. Pure but for reading files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import orjson
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict

from penstock.worker.environments.requirements import (
    REQUIREMENTS_FILE,
    SUBSTITUTES,
    installed_versions,
    parsed,
    read_requirements,
)
from penstock.worker.runtimes.base import ModelLoadError
from penstock.worker.runtimes.mlflow_model import MLmodelError, read_mlmodel
from penstock.worker.runtimes.registry import kind_of

CONSTRAINTS_FILE = "constraints.txt"
"""MLflow writes it beside the requirements, where those refer to it."""

OWN_PACKAGES = ("penstock.shared", "penstock.worker")
"""The packages of ours that a replica imports."""

REPLICA_NEEDS = (
    "fsspec",
    "msgpack",
    "numpy",
    "orjson",
    "packaging",
    "pydantic",
    "pyyaml",
    "pyzmq",
    "redis",
    "setproctitle",
    "structlog",
)
"""What those import."""

RUNTIME_NEEDS = {
    "onnx": ("onnxruntime-gpu",),
    "torch": ("torch",),
    "pyfunc": ("mlflow", "pandas"),
}
"""What each runtime imports, by its extra; the model's own requirements come before ours."""

THEIRS_WIN = frozenset({"numpy"})
"""Where any version serves us, so that an old model may pin one which our own range excludes."""


class Recipe(BaseModel):
    """All that the content of an environment depends on.

    Attributes:
        python: version of the interpreter that it is for, and where that is.
        requirements: text of the model's file; empty if it has none.
        constraints: likewise.
        needs: requirements of ours.
        code: the folders that hold our own packages, by name.
    """

    model_config = ConfigDict(frozen=True)

    python: tuple[str, str]
    requirements: str
    constraints: str
    needs: tuple[str, ...]
    code: dict[str, str]

    @property
    def digest(self) -> str:
        """The environment's name."""
        return hashlib.sha256(
            orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)
        ).hexdigest()


def recipe_of(model: Path) -> Recipe:
    """The recipe for the model in a folder."""
    named = {canonicalize_name(each.name) for each in parsed(read_requirements(model))}
    return Recipe(
        python=(platform.python_version(), sys.executable),
        requirements=_text(model / REQUIREMENTS_FILE),
        constraints=_text(model / CONSTRAINTS_FILE),
        needs=needs_beside(named, _runtime_extra(model)),
        code={name: _folder_of(name) for name in OWN_PACKAGES},
    )


def _folder_of(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).resolve().parent)


def needs_beside(named: Collection[str], extra: str | None) -> tuple[str, ...]:
    """What is to be installed beside packages of these (canonical) names.

    Args:
        extra: of the runtime that will serve the model, or None if none does.
    """
    ranges = {each.name.lower(): each for each in _own_requirements()}
    for_us = [name for name in REPLICA_NEEDS if name not in THEIRS_WIN or name not in named]
    for_model = [name for name in RUNTIME_NEEDS.get(extra or "", ()) if not _serves(name, named)]
    return tuple(_need(name, ranges.get(name)) for name in (*for_us, *for_model))


def _serves(name: str, named: Collection[str]) -> bool:
    """Whether one of the packages that are named has the modules of `name`."""
    alike = [each for each, others in SUBSTITUTES.items() if name in others]
    return any(each in named for each in (name, *SUBSTITUTES.get(name, ()), *alike))


def _need(name: str, own: Requirement | None) -> str:
    """Our range; of MLflow, the version that is here, which is known to read what we read."""
    if name == "mlflow":
        here = [each for each in (name, "mlflow-skinny") if each in installed_versions()]
        return f"mlflow-skinny=={installed_versions()[here[0]]}" if here else "mlflow-skinny"
    return name if own is None else f"{name}{own.specifier}"


def _own_requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in importlib.metadata.requires("penstock") or ()]
    except importlib.metadata.PackageNotFoundError:  # run from a folder of sources
        return []


def _runtime_extra(model: Path) -> str | None:
    try:
        return kind_of(model, read_mlmodel(model)).extra
    except (MLmodelError, ModelLoadError):
        return None  # the replica will say so


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
