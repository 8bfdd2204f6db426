"""What a model that brings code of its own needs before that code can run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.worker.environments.requirements import compare, installed_versions, read_requirements
from penstock.worker.runtimes.base import ModelLoadError


def check_requirements(folder: Path) -> None:
    """Compare the model's `requirements.txt` with what is installed; of other versions, the
    replica's note tells (`penstock.worker.replica.loading`).

    Raises:
        ModelLoadError: if packages are missing.
    """
    comparison = compare(read_requirements(folder), installed_versions())
    if comparison.missing:
        others = f" (and has other versions of: {', '.join(comparison.different)})"
        raise ModelLoadError(
            f"the environment lacks packages that the model needs: {', '.join(comparison.missing)}"
            + (others if comparison.different else "")
            + "; install them where the worker runs, or set the tag penstock.env = isolated"
        )


def add_code_paths(folder: Path, flavor: Mapping[str, Any]) -> None:
    """Make the modules importable that were logged with the model (`code_paths`)."""
    code = flavor.get("code")
    if code:
        sys.path.insert(0, str(folder / str(code)))


@contextmanager
def model_code_runs() -> Iterator[None]:
    """Turn whatever a model's own code raises as it loads into a `ModelLoadError`, an exit too."""
    try:
        yield
    except ModelLoadError:
        raise
    except BaseException as error:
        raise ModelLoadError(f"{type(error).__name__}: {error}") from error
