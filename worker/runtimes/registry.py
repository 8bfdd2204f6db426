"""Which runtime serves which model. Libraries are imported only when a model needs them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from penstock.shared.process.telemetry import get_logger
from penstock.worker.runtimes.base import Loader, ModelLoadError, Runtime
from penstock.worker.runtimes.mlflow_model import MLmodel, MLmodelError, read_mlmodel

log = get_logger("runtimes")


@dataclass(frozen=True)
class RuntimeKind:
    """A runtime: the module and function that load it, and the extra that installs it."""

    title: str
    module: str
    function: str
    extra: str


_ONNX = RuntimeKind("ONNX", "penstock.worker.runtimes.onnx", "load_onnx", "onnx")
_TORCH = RuntimeKind("PyTorch", "penstock.worker.runtimes.torch", "load_torch", "torch")
_PYFUNC = RuntimeKind("MLflow pyfunc", "penstock.worker.runtimes.pyfunc", "load_pyfunc", "pyfunc")


def load_runtime(
    folder: Path,
    mlmodel: MLmodel | None,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
    may_execute: bool = True,
) -> Runtime:
    """Load the model in a folder with the runtime that fits it.

    Args:
        mlmodel: what MLflow says of it (`describe`).
        may_execute: whether it may be executed to find out what nothing says of it.

    Raises:
        ModelLoadError: if no runtime fits, or the one that fits cannot load it.
    """

    def load(kind: RuntimeKind) -> Runtime:
        return _loader_of(kind)(
            folder,
            mlmodel,
            max_batch_size=max_batch_size,
            device=device,
            threads=threads,
            allow_cpu_fallback=allow_cpu_fallback,
            may_execute=may_execute,
        )

    kind = kind_of(folder, mlmodel)
    try:
        return load(kind)
    except ModelLoadError as error:
        flavors = mlmodel.flavors if mlmodel is not None else {}
        if not error.invalid or kind is _PYFUNC or "python_function" not in flavors:
            raise
        log.info("it is no graph to serve, so MLflow's own code runs it", reason=str(error))
    return load(_PYFUNC)


def _loader_of(kind: RuntimeKind) -> Loader:
    """What opens models of a kind.

    Raises:
        ModelLoadError: if its packages are not installed.
    """
    try:
        loader: Loader = getattr(importlib.import_module(kind.module), kind.function)
    except ImportError as error:
        message = (
            f"{kind.title} models need the extra penstock[{kind.extra}], which is not installed"
        )
        raise ModelLoadError(f"{message}: {error}") from error
    return loader


def describe(folder: Path) -> MLmodel | None:
    """What MLflow says of the model in a folder; None: nothing.

    Raises:
        ModelLoadError: if that cannot be understood.
    """
    try:
        return read_mlmodel(folder)
    except MLmodelError as error:
        raise ModelLoadError(str(error), invalid=True) from error


def kind_of(folder: Path, mlmodel: MLmodel | None) -> RuntimeKind:
    """Which runtime fits the model in a folder.

    Raises:
        ModelLoadError: if none does.
    """
    flavors = set(mlmodel.flavors) if mlmodel else set()
    if "onnx" in flavors or (folder / "model.onnx").is_file():
        return _ONNX
    if mlmodel is None and (folder / "model.pt2").is_file():
        return _TORCH
    # A signature of columns wants a data frame, and MLflow's wrapper of PyTorch makes one.
    by_columns = mlmodel is not None and mlmodel.input_columns is not None
    if "pytorch" in flavors and not (by_columns and "python_function" in flavors):
        return _TORCH
    if "python_function" in flavors:
        return _PYFUNC
    named = ", ".join(sorted(flavors)) or "none"
    raise ModelLoadError(f"no runtime serves a model of flavors: {named}", invalid=True)
