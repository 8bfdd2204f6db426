"""Variables that nobody reads are told; those that somebody reads are not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from penstock.deploy.local.cli.known_settings import known_variables, warnings_of
from tests.e2e.system import PENSTOCK, own_environment

pytestmark = pytest.mark.costly

ROOT = Path(__file__).parents[4]


def test_a_misspelt_variable_is_told_with_the_nearest_name_and_without_its_value() -> None:
    (warning,) = warnings_of({"PENSTOCK_REDIS_URI": "redis://:secret@far/0", "PATH": "/bin"})
    assert warning.startswith("PENSTOCK_REDIS_URI is no variable of Penstock")
    assert warning.endswith("; did you mean PENSTOCK_REDIS_URL?")
    assert "secret" not in warning


def test_a_variable_like_no_other_is_told_without_a_guess() -> None:
    assert list(warnings_of({"PENSTOCK_XQZ": "1"})) == [
        "PENSTOCK_XQZ is no variable of Penstock, and does nothing"
    ]


def test_known_variables_are_not_told_in_either_case() -> None:
    assert (
        list(warnings_of({"penstock_port": "1", "PENSTOCK_URL": "", "PENSTOCK_MODELS": "x"})) == []
    )


def test_children_of_up_tell_nothing_since_up_has() -> None:
    assert list(warnings_of({"PENSTOCK_XQZ": "1", "PENSTOCK_PARENT_PID": "7"})) == []


def test_what_kubernetes_adds_for_a_service_of_our_name_is_not_told() -> None:
    links = {
        "PENSTOCK_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_GATEWAY_SERVICE_PORT_HTTP": "80",
        "PENSTOCK_GATEWAY_PORT": "tcp://10.0.0.1:80",
        "PENSTOCK_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert list(warnings_of(links)) == []


def test_every_variable_that_the_code_names_is_known() -> None:
    found = {
        name
        for package in ("deploy", "gateway", "registry_sync", "shared", "worker")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bPENSTOCK_[A-Z][A-Z_]*[A-Z]\b", path.read_text())
    }
    assert found - known_variables() == set()


@pytest.mark.parametrize("command", ["up", "gateway", "worker", "registry-sync"])
def test_each_process_tells_it_once_at_its_start(command: str) -> None:
    done = subprocess.run(
        [*PENSTOCK, command, "--redis-url", "nothing"],
        env={**own_environment(), "PENSTOCK_DRAIN_GRACE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("PENSTOCK_DRAIN_GRACE is no variable") == 1
    assert "did you mean PENSTOCK_DRAIN_GRACE_S?" in done.stderr
