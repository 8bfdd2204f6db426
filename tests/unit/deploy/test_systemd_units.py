"""The units for systemd: it takes them, and they leave our processes the time that they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.deploy.local.cli.config_file import read_config
from penstock.deploy.local.cli.known_settings import SETTINGS, known_variables
from penstock.deploy.local.cli.settings_flags import settings_from
from penstock.deploy.local.up.system_plan import KILL_AFTER_GRACE_S
from penstock.gateway.settings import GatewaySettings
from penstock.worker.settings import WorkerSettings

FOLDER = Path(__file__).parents[3] / "deploy" / "systemd"
NAMES = ("gateway", "worker", "registry-sync")
PROGRAM = "/opt/penstock/bin/penstock"
LINE = re.compile(r"([A-Z][A-Za-z]+)=(.*)")


def unit_of(name: str) -> str:
    return (FOLDER / f"penstock-{name}.service").read_text()


def values_of(name: str, key: str) -> list[str]:
    lines = unit_of(name).splitlines()
    return [found[2] for line in lines if (found := LINE.fullmatch(line)) and found[1] == key]


@pytest.mark.parametrize("name", NAMES)
def test_each_line_is_a_section_or_a_setting(name: str) -> None:
    lines = [line for line in unit_of(name).splitlines() if line and not line.startswith("#")]
    sections = [line for line in lines if line.startswith("[")]
    assert sections == ["[Unit]", "[Service]", "[Install]"]
    assert [line for line in lines if line not in sections and not LINE.fullmatch(line)] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_takes_each_unit(name: str, tmp_path: Path) -> None:
    unit = tmp_path / f"penstock-{name}.service"
    unit.write_text(unit_of(name).replace(PROGRAM, "/bin/true"))  # ours is not installed there
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_unit_runs_its_command_with_variables_that_we_know(name: str) -> None:
    assert values_of(name, "ExecStart") == [f"{PROGRAM} {name}"]
    variables = {value.partition("=")[0] for value in values_of(name, "Environment")}
    assert "PENSTOCK_CONFIG" in variables
    assert variables <= known_variables()


@pytest.mark.parametrize("name", NAMES)
def test_processes_that_ours_started_live_until_it_has_drained(name: str) -> None:
    assert values_of(name, "KillMode") == ["mixed"]
    assert values_of(name, "OOMPolicy") == ["continue"]


def test_no_unit_is_killed_before_it_could_drain() -> None:
    gateway = settings_from(GatewaySettings, {}, read_config(FOLDER / "penstock.toml", "gateway"))
    worker = settings_from(WorkerSettings, {}, read_config(FOLDER / "penstock.toml", "worker"))
    (gateway_s,), (worker_s,) = (values_of(name, "TimeoutStopSec") for name in NAMES[:2])
    assert int(gateway_s) > gateway.drain_grace_s
    drain_s = max(worker.drain_grace_s, worker.drain_timeout_s_max)
    assert int(worker_s) >= worker.handover_grace_s + drain_s + KILL_AFTER_GRACE_S


@pytest.mark.parametrize("command", SETTINGS)
def test_the_file_of_settings_beside_them_is_right_for_every_command(command: str) -> None:
    settings_from(SETTINGS[command], {}, read_config(FOLDER / "penstock.toml", command))
