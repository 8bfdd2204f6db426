"""Which runtime serves which model. Libraries are imported only when a model needs them."""

from __future__ import annotations

import importlib
from pathlib import Path

from worker.mlflow_model import MLmodelError, read_mlmodel
from worker.runtimes.base import ModelLoadError, Runtime


def load_runtime(
    folder: Path,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
) -> Runtime:
    """Load the model in a folder with the runtime that fits it.

    Raises:
        ModelLoadError: if no runtime fits, or the one that fits cannot load it.
    """
    try:
        mlmodel = read_mlmodel(folder)
    except MLmodelError as error:
        raise ModelLoadError(str(error), invalid=True) from error
    flavors = set(mlmodel.flavors) if mlmodel else set()
    if "onnx" not in flavors and not (folder / "model.onnx").is_file():
        named = ", ".join(sorted(flavors)) or "none"
        raise ModelLoadError(f"no runtime serves a model of flavors: {named}", invalid=True)
    try:
        onnx = importlib.import_module("worker.runtimes.onnx")
    except ImportError as error:
        message = f"ONNX models need the extra penstock[onnx], which is not installed: {error}"
        raise ModelLoadError(message) from error
    runtime: Runtime = onnx.load_onnx(
        folder,
        mlmodel,
        max_batch_size=max_batch_size,
        device=device,
        threads=threads,
        allow_cpu_fallback=allow_cpu_fallback,
    )
    return runtime
