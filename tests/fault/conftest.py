"""Models that several fault tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mlflow_models as models


@pytest.fixture(scope="session")
def napping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sleeps as long as it is told."""
    return models.napping(tmp_path_factory.mktemp("napping") / "m")
