"""An MLflow server that the suites share: its first start takes some ten seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.registries import mlflow_server


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri
