"""The command line as a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.deploy.local.cli.extras import load
from penstock.deploy.local.cli.failures import CommandError
from tests.e2e.system import PENSTOCK
from tests.support.commands import penstock

pytestmark = pytest.mark.costly

HEAVY = ("mlflow", "torch", "onnx", "onnxruntime", "sklearn", "fastapi", "uvicorn", "httpx", "zmq")


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    program = "import sys, penstock.deploy.local.cli.main; "
    program += f"print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_version() -> None:
    done = subprocess.run([*PENSTOCK, "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("penstock ")


@pytest.mark.parametrize("command", ["up", "gateway", "worker", "registry-sync"])
def test_help_shows_every_setting_with_its_variable(command: str) -> None:
    done = penstock(command, "--help")
    assert done.returncode == 0
    assert "PENSTOCK_REDIS_URL" in done.stdout
    assert "default: " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--port", "many"],
        ["up", "--gateways", "0"],
        ["up", "--redis-url", "localhost"],
        ["gateway", "--port", "-1"],
        ["nope"],
    ],
)
def test_a_mistake_is_short_and_exits_with_2(arguments: list[str]) -> None:
    done = penstock(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(CommandError, match=r"pip install 'penstock\[worker\]'"):
        load("no_such_library.part", "penstock worker", "worker")


def test_status_of_nothing_is_one_line() -> None:
    done = penstock("status", "--data-dir", "/nowhere/at/all")
    assert done.returncode == 1
    assert done.stderr.startswith("penstock: nothing runs on /nowhere/at/all")
    assert len(done.stderr.splitlines()) == 1


def test_status_of_an_absent_store_is_one_line() -> None:
    done = penstock("status", "--redis-url", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
