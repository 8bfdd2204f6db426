"""What is tested is what the sources say."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Refuse to test compiled modules that are older than their sources."""
    for package in ("shared", "gateway", "worker"):
        for compiled in (ROOT / package).rglob("*.so"):
            source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
            if source.exists() and source.stat().st_mtime > compiled.stat().st_mtime:
                name = source.relative_to(ROOT)
                pytest.exit(f"{name} is newer than its compiled form: `make compiled`", 2)
