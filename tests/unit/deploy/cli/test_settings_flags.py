"""Flags out of settings classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from typer.testing import CliRunner

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.settings_flags import NO_DEFAULTS, command_of, settings_from


class Sample(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SAMPLE_", extra="ignore")

    port: int = Field(80, ge=1, description="Where to listen.")
    ratio: float = 0.5
    folder: Path | None = Field(None, description="Where to write.")
    verbose: bool = Field(False, description="Say more.")
    aliases: dict[str, str] = {"production": "stable"}
    password: SecretStr = SecretStr("")
    keys: tuple[SecretStr, ...] = ()

    @field_validator("password")
    @classmethod
    def _is_long(cls, password: SecretStr) -> SecretStr:
        if password and len(password) < 20:
            raise ValueError("too short")
        return password


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[Any, Sample | None]:
    seen: list[Sample] = []
    app = typer.Typer(rich_markup_mode=None)
    app.command()(command_of(Sample, seen.append, "Do it.", lambda config: NO_DEFAULTS))
    result = CliRunner().invoke(app, list(arguments), env=env)
    return result, seen[0] if seen else None


def test_defaults() -> None:
    assert run()[1] == Sample()


def test_flags_win_over_the_environment() -> None:
    _, settings = run("--port", "81", env={"SAMPLE_PORT": "82", "SAMPLE_RATIO": "0.25"})
    assert settings is not None
    assert (settings.port, settings.ratio) == (81, 0.25)


def test_every_kind_of_value() -> None:
    _, settings = run("--verbose", "--folder", "/a b", "--aliases", '{"champion": "stable"}')
    assert settings is not None
    assert settings.verbose
    assert settings.folder == Path("/a b")
    assert settings.aliases == {"champion": "stable"}
    _, settings = run("--no-verbose", env={"SAMPLE_VERBOSE": "1"})
    assert settings is not None
    assert not settings.verbose


def test_help_shows_description_default_and_variable() -> None:
    text = " ".join(run("--help")[0].output.split())
    assert "--port INTEGER Where to listen. (env: SAMPLE_PORT; default: 80)" in text
    assert "--verbose / --no-verbose Say more. (env: SAMPLE_VERBOSE; default: off)" in text
    assert "--folder PATH Where to write. (env: SAMPLE_FOLDER)" in text
    assert '--aliases JSON (env: SAMPLE_ALIASES; default: {"production":"stable"})' in text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": "eighty"}, r"--port \(SAMPLE_PORT\)"),
        ({"port": "0"}, "greater than or equal to 1, got '0'"),
        ({"aliases": "{"}, "--aliases: no JSON"),
        ({"password": "short"}, r"^--password \(SAMPLE_PASSWORD\): too short$"),
    ],
)
def test_a_mistake_names_its_flag(given: dict[str, str], named: str) -> None:
    with pytest.raises(CommandError, match=named) as caught:
        settings_from(Sample, given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("given", [{"password": "hidden"}, {"keys": '["a", {"hidden": 1}]'}])
def test_secrets_are_not_shown(given: dict[str, str]) -> None:
    with pytest.raises(CommandError, match="SAMPLE_") as caught:
        settings_from(Sample, given)
    assert "hidden" not in str(caught.value)


def test_secrets_of_the_environment_are_not_shown() -> None:
    result, _ = run(env={"SAMPLE_PASSWORD": "hidden"})
    assert result.exit_code != 0
    assert "hidden" not in f"{result.output}{result.exception}"
    assert "hidden" not in run("--help", env={"SAMPLE_PASSWORD": "hidden" * 9})[0].output
