"""Lock, logs and the file by which a system is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system import data_dir as data_dir_module
from penstock.deploy.local.system.data_dir import (
    DataDir,
    bound_log,
    lock_data_dir,
    running_pid,
    start_log,
    tail_of,
)
from penstock.deploy.local.system.system_file import (
    SystemFile,
    read_system,
    remove_system,
    write_system,
)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.make()
    return made


def system(pid: int) -> SystemFile:
    return SystemFile(pid=pid, url="http://g", mlflow_uri="m", redis_url="r", namespace="n")


def test_the_second_is_told_who_holds_the_lock(data_dir: DataDir) -> None:
    held = lock_data_dir(data_dir)
    with pytest.raises(CommandError, match=rf"already running on .*\(pid {os.getpid()}\)"):
        lock_data_dir(data_dir)
    assert running_pid(data_dir) == os.getpid()
    os.close(held)
    assert running_pid(data_dir) is None
    os.close(lock_data_dir(data_dir))


def test_a_data_dir_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="Not a directory"):
        DataDir(tmp_path / "file" / "data").make()


def test_folders_are_their_owners_alone(data_dir: DataDir) -> None:
    for folder in (data_dir.path, *data_dir.path.rglob("*")):
        assert folder.stat().st_mode & 0o077 == 0
    assert data_dir.make() == []


def test_a_folder_that_was_open_to_others_is_closed_and_named(data_dir: DataDir) -> None:
    data_dir.redis.chmod(0o755)
    data_dir.path.chmod(0o750)
    closed, open_still = data_dir.make()
    assert closed == f"{data_dir.redis} was open to others (mode 0755); it is closed now"
    assert open_still.startswith(f"{data_dir.path} is open to others (mode 0750)")
    assert data_dir.redis.stat().st_mode & 0o777 == 0o700
    assert data_dir.path.stat().st_mode & 0o777 == 0o750  # it may hold more than ours


def test_a_system_is_found_while_it_runs(data_dir: DataDir) -> None:
    with pytest.raises(CommandError, match="nothing runs on"):
        read_system(data_dir.path)
    held = lock_data_dir(data_dir)
    with pytest.raises(CommandError, match="is starting"):
        read_system(data_dir.path)
    write_system(data_dir, system(pid=os.getpid() + 1))
    with pytest.raises(CommandError, match="is starting"):  # left by an earlier life
        read_system(data_dir.path)
    write_system(data_dir, system(pid=os.getpid()))
    assert read_system(data_dir.path).url == "http://g"
    assert (data_dir.path / "system.json").stat().st_mode & 0o077 == 0
    remove_system(data_dir)
    os.close(held)


def test_one_old_log_is_kept(data_dir: DataDir) -> None:
    log = data_dir.log_of("gateway-0")
    for text in ("first", "second"):
        start_log(log)
        log.write_text(text)
    start_log(log)
    assert not log.exists()
    assert log.with_name("gateway-0.log.1").read_text() == "second"


def test_a_log_that_grew_too_long_is_cut_under_its_writer(
    data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_dir_module, "LOG_BYTES_MAX", 10)
    log = data_dir.log_of("x")
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789ab")
        bound_log(log)
        writer.write(b"next")
    assert log.read_bytes() == b"next"
    assert log.with_name("x.log.1").read_bytes() == b"23456789ab"  # however much there was


def test_the_tail_is_bounded(data_dir: DataDir) -> None:
    log = data_dir.log_of("x")
    assert tail_of(log) == ""
    log.write_text("".join(f"{n} {'y' * 1000}\n" for n in range(100)))
    tail = tail_of(log, lines=3).splitlines()
    assert [line.split()[0] for line in tail] == ["97", "98", "99"]
    assert all(len(line) == 400 for line in tail)
