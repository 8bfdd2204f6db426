"""Folders of keys: what is in them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.commands.keys import make_keys
from penstock.shared.wire.curve import KeysError, read_gateway_keys, read_worker_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", force=False)
    return tmp_path / "keys"


def test_both_sides_know_each_other(folder: Path) -> None:
    gateway, worker = read_gateway_keys(folder), read_worker_keys(folder)
    assert zmq.curve_public(gateway.secret) == worker.gateway
    assert gateway.admitted == {z85.decode(zmq.curve_public(worker.secret))}


def test_secrets_are_their_owners_alone_and_shown_nowhere(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {
        "gateway.secret": 0o600,
        "gateway.public": 0o644,
        "worker.secret": 0o600,
        "worker.public": 0o644,
    }
    for keys in (read_gateway_keys(folder), read_worker_keys(folder)):
        assert keys.secret.decode() not in repr(keys)


def test_keys_that_are_there_are_replaced_only_if_asked(folder: Path) -> None:
    before = read_gateway_keys(folder)
    with pytest.raises(CommandError, match=r"holds gateway\.secret.*--force") as failure:
        make_keys(folder, force=False)
    assert failure.value.exit_code == 2
    assert read_gateway_keys(folder) == before
    make_keys(folder, force=True)
    assert read_gateway_keys(folder) != before


def test_a_second_key_of_workers_is_admitted_beside_the_first(folder: Path) -> None:
    public, _ = zmq.curve_keypair()
    (folder / "worker-new.public").write_bytes(public + b"\n")
    assert z85.decode(public) in read_gateway_keys(folder).admitted
    assert len(read_gateway_keys(folder).admitted) == 2


def test_each_host_needs_only_its_own_files(folder: Path) -> None:
    (folder / "worker.secret").unlink()
    assert read_gateway_keys(folder).admitted
    with pytest.raises(KeysError, match=r"cannot read the key .*worker\.secret: No such file"):
        read_worker_keys(folder)


def test_a_secret_that_everyone_may_read_is_refused(folder: Path) -> None:
    (folder / "gateway.secret").chmod(0o644)
    with pytest.raises(KeysError, match="chmod 600"):
        read_gateway_keys(folder)


@pytest.mark.parametrize("content", [b"", b"short", b"\x00" * 40, b"~" * 40, b"#" * 40, b"a" * 41])
def test_what_is_no_key_is_named(folder: Path, content: bytes) -> None:
    (folder / "gateway.public").write_bytes(content)
    with pytest.raises(KeysError, match=r"gateway\.public is no key"):
        read_worker_keys(folder)


def test_without_any_workers_key_a_gateway_does_not_start(folder: Path) -> None:
    (folder / "worker.public").unlink()
    with pytest.raises(KeysError, match="no worker could connect"):
        read_gateway_keys(folder)
