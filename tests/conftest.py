"""What is tested is what the sources say, and how `make test` spreads tests over its processes:
each module to one of them, in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test
from xdist.scheduler import LoadFileScheduling

from tests.support.examples import register_profiles

ROOT = Path(__file__).parent.parent

register_profiles()

DEMO, MLFLOW = "the demo system", "the MLflow server"
TOGETHER = {
    "tests/contract/test_demo_diffusion.py": MLFLOW,
    "tests/contract/test_registry_source.py": MLFLOW,
    "tests/e2e/test_faults.py": DEMO,
    "tests/e2e/test_observability.py": DEMO,
    "tests/e2e/test_swap.py": DEMO,
    "tests/e2e/test_tritonclient.py": DEMO,
    "tests/e2e/test_up.py": DEMO,
}
"""Modules that share what takes half a minute to start, so that one process runs all of them."""


SPREAD = {"tests/zoo/test_zoo.py"}
"""Modules of many slow tests that share little, so that each goes to whoever is free."""


class ByWhatIsShared(LoadFileScheduling):  # type: ignore[misc]
    """Deals out modules, and those that share something as one."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module in SPREAD:
            return nodeid
        return TOGETHER.get(module, module)


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWhatIsShared:
    """Called by pytest-xdist where tests run side by side."""
    return ByWhatIsShared(config, log)


def pytest_configure() -> None:
    """Refuse to test compiled modules that are older than their sources."""
    for package in ("shared", "gateway", "worker"):
        for compiled in (ROOT / package).rglob("*.so"):
            source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
            if source.exists() and source.stat().st_mtime > compiled.stat().st_mtime:
                name = source.relative_to(ROOT)
                pytest.exit(f"{name} is newer than its compiled form: `make compiled`", 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark property tests, so that `.ci/long` can run them once more with all their examples."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.property)
