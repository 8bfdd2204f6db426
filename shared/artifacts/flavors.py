"""What registry_sync and replicas both need to know of an `MLmodel` file, as MLflow writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MLMODEL_FILE = "MLmodel"


def streams(flavors: Mapping[str, Any]) -> bool:
    """Whether the model gives an answer in parts (`predict_stream`), by its flavors."""
    pyfunc = flavors.get("python_function")
    return isinstance(pyfunc, Mapping) and pyfunc.get("streamable") is True


def folder_streams(folder: Path) -> bool:
    """Whether the model in a folder does; False if its `MLmodel` file is missing or not readable.

    What is wrong with the file is told by the replica that has to load it.
    """
    try:
        document = yaml.safe_load((folder / MLMODEL_FILE).read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    flavors = document.get("flavors") if isinstance(document, Mapping) else None
    return isinstance(flavors, Mapping) and streams(flavors)
