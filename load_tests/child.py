"""Processes of our own: load generators and the bare server run modules of this package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def module_command(module: str, *arguments: str) -> list[str]:
    """Run a module of this package with arguments."""
    return [sys.executable, "-m", f"load_tests.{module}", *arguments]


def module_environment() -> dict[str, str]:
    """Ours, in which this package is found wherever we were started."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
