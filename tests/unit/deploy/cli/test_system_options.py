"""How commands are told which system they are about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from penstock.deploy.local.cli import main as cli
from penstock.deploy.local.cli.system_options import HERE, DataDirOption, RedisUrlOption

URL, VARIABLE = "redis://far/0", {"PENSTOCK_REDIS_URL": "redis://far/0"}

OF_ONE_CALL = {
    *("version", "as_json", "help", "limit", "cursor", "output", "source", "wait", "priority"),
    *("timeout_s", "ttl_s", "result_ttl_s", "webhook", "webhook_event", "idempotency_key"),
    *("state", "model", "force", "concurrency", "rounds", "training_steps"),
    *("judged", "goal", "request", "job", "follow", "yes", "undone"),
    *("install_completion", "show_completion"),
}
"""Flags without a variable, which would change every call after it."""


def told(*arguments: str, env: dict[str, str]) -> tuple[str | None, Path]:
    seen: list[tuple[str | None, Path]] = []
    app = typer.Typer()

    @app.command()
    def command(redis_url: RedisUrlOption = None, data_dir: DataDirOption = HERE) -> None:
        seen.append((redis_url, data_dir))

    result = CliRunner().invoke(app, list(arguments), env=env)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_a_variable_does_what_its_flag_does() -> None:
    assert told(env=VARIABLE) == told("--redis-url", URL, env={}) == (URL, HERE)


def test_a_flag_wins_over_the_variable_of_another_that_it_excludes() -> None:
    assert told("--data-dir", "here", env=VARIABLE) == (None, Path("here"))
    both = told("--data-dir", "here", "--redis-url", URL, env=VARIABLE)
    assert both == (URL, Path("here"))


def test_a_variable_of_the_store_wins_over_one_of_the_data_directory() -> None:
    assert told(env=VARIABLE | {"PENSTOCK_DATA_DIR": "here"})[0] == URL


def options_of(command: Any) -> Iterator[tuple[str, Any]]:
    for name, each in getattr(command, "commands", {}).items():
        yield from ((f"{name} {path}", parameter) for path, parameter in options_of(each))
    yield from (
        (str(each.name), each) for each in command.params if each.param_type_name == "option"
    )


def test_every_flag_of_commands_that_look_at_a_system_has_its_variable() -> None:
    of_settings = ("up ", "gateway ", "worker ", "registry-sync ")  # these say it in their help
    without = [
        path
        for path, option in options_of(typer.main.get_command(cli.app))
        if option.envvar is None
        and option.name not in OF_ONE_CALL
        and not path.startswith(of_settings)
        and path not in ("status url", "wait url")  # they ask the store unless one call says so
    ]
    assert without == []


def test_keys_go_where_their_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KEYS_DIR", str(tmp_path / "keys"))
    result = CliRunner().invoke(cli.app, ["keys"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "keys" / "gateway.secret").exists()
