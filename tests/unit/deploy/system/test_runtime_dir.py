"""The short directory for sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.runtime_dir import (
    LONGEST_SOCKET_NAME,
    SOCKET_PATH_MAX,
    RuntimeDir,
    choose_base,
    runtime_dir_name,
)


def test_name_depends_on_data_dir_and_user_alone() -> None:
    name = runtime_dir_name(Path("/srv/a"), 1000)
    assert name == runtime_dir_name(Path("/srv/a"), 1000)
    assert name != runtime_dir_name(Path("/srv/b"), 1000)
    assert name != runtime_dir_name(Path("/srv/a"), 1001)
    assert name.startswith("penstock-1000-")


def test_name_does_not_grow_with_the_data_dir() -> None:
    long = runtime_dir_name(Path("/" + "x" * 4000), 1000)
    assert len(long) == len(runtime_dir_name(Path("/a"), 1000))


def test_a_base_that_is_too_long_is_passed_over() -> None:
    name = runtime_dir_name(Path("/srv/a"), 4294967294)
    long = Path("/run/" + "u" * 80)
    assert choose_base([long, Path("/tmp")], name) == Path("/tmp")
    assert choose_base([long], name) is None
    assert len(f"/tmp/{name}{LONGEST_SOCKET_NAME}") <= SOCKET_PATH_MAX


@pytest.fixture
def short_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        yield Path(base)


def test_it_is_private_leads_to_the_data_dir_and_goes(short_base: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 150)
    data_dir.mkdir()
    runtime = RuntimeDir.make(data_dir)
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700
    assert runtime.data.resolve() == data_dir
    runtime.remove()
    assert not runtime.path.exists()
    assert data_dir.exists()


def test_the_next_life_takes_it_over_with_stale_sockets(short_base: Path, tmp_path: Path) -> None:
    first = RuntimeDir.make(tmp_path)
    (first.path / "gateway-0.ipc").touch()
    first.path.chmod(0o755)
    second = RuntimeDir.make(tmp_path)
    assert second.path == first.path
    assert stat.S_IMODE(second.path.stat().st_mode) == 0o700
    second.remove()


def test_a_symlink_in_its_place_is_refused(short_base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (short_base / runtime_dir_name(tmp_path, os.geteuid())).symlink_to(elsewhere)
    with pytest.raises(CommandError, match="belongs to somebody else"):
        RuntimeDir.make(tmp_path)
