"""A gateway for the models of the zoo, and a place for what MLflow writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.served import Served, served


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("parity") / "gateway.log") as system:
        yield system


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all: to make its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(autouse=True)
def elsewhere(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow writes to where nothing else is said is to lie in no checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)
