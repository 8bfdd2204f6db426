"""Settings in a file: what it may say, and what wins over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.deploy.local.cli.config_file import read_config
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.known_settings import SETTINGS
from penstock.deploy.local.cli.settings_flags import settings_from
from penstock.gateway.settings import GatewaySettings
from penstock.registry_sync.settings import SyncSettings
from tests.support.commands import penstock

pytestmark = pytest.mark.costly

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "penstock.toml"
        path.write_text(text)
        return path

    return written


def test_flags_win_over_variables_over_the_file_over_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("penstock_port", "2")
    path = write('host = "file"\nport = 3\nqueue_limit = 3\nnamespace = "file"\n')
    found = settings_from(GatewaySettings, {"host": "flag"}, read_config(path, "gateway"))
    assert (found.host, found.port, found.queue_limit) == ("flag", 2, 3)
    assert found.namespace == "file"
    assert found.max_body_bytes == GatewaySettings().max_body_bytes


def test_a_table_is_for_its_process_alone_and_wins_over_the_top(write: Write) -> None:
    path = write('log_level = "debug"\n[gateway]\nlog_level = "error"\n[worker]\nworker = "w"\n')
    levels = {name: read_config(path, name).values["log_level"] for name in ("gateway", "worker")}
    assert levels == {"gateway": "error", "worker": "debug"}
    assert "worker" not in read_config(path, "gateway").values


def test_every_kind_of_value_is_read(write: Write) -> None:
    path = write(
        '[registry-sync]\nstable_aliases = ["a", "b"]\ncache_dir = "c"\npoll_interval_s = 1\n'
    )
    found = settings_from(SyncSettings, {}, read_config(path, "registry-sync"))
    assert (found.stable_aliases, found.cache_dir) == (("a", "b"), Path("c"))
    assert found.poll_interval_s == 1.0
    path = write("[gateway]\ninsecure_tcp = true\n")
    assert settings_from(GatewaySettings, {}, read_config(path, "gateway")).insecure_tcp


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queue_limt = 1", r"unknown key queue_limt; did you mean queue_limit\?"),
        (
            "[gateway]\nqueue-limit = 1",
            r"unknown key queue-limit in \[gateway\]; did you mean queue_l",
        ),
        ("[worker]\nqueue_limit = 1", r"unknown key queue_limit in \[worker\]"),
        ("[gatewy]\nport = 1", r"unknown table \[gatewy\]; did you mean gateway\?"),
        ("port = 1\nport 2", r"no TOML: .*line 2"),
    ],
)
@pytest.mark.parametrize("command", SETTINGS)
def test_a_mistake_is_an_error_to_every_process(
    write: Write, text: str, said: str, command: str
) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        read_config(write(text), command)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_or_is_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        read_config(tmp_path / "none.toml", "up")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="no TOML"):
        read_config(tmp_path / "binary", "up")


@pytest.mark.parametrize("text", ["port = true", 'port = "eighty"', "port = 1.5"])
def test_a_value_that_is_wrong_names_its_key_and_file(write: Write, text: str) -> None:
    path = write(text)
    with pytest.raises(CommandError, match=rf"^port in {path}: "):
        settings_from(GatewaySettings, {}, read_config(path, "gateway"))


@pytest.mark.parametrize("command", SETTINGS)
def test_each_process_reads_the_file_that_it_is_given(write: Write, command: str) -> None:
    done = penstock(command, "--config", str(write('redis_url = "nowhere"')))
    assert done.returncode == 2
    assert "redis_url in " in done.stderr
