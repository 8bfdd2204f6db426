"""The secret of a local system's webhooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.webhook_secret import kept_secret
from penstock.gateway.webhooks.signing import key_of


def test_it_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "webhook-secret"
    secret = kept_secret(path)
    assert len(key_of(secret)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_secret(path) == secret
    assert kept_secret(tmp_path / "another") != secret
    path.write_text(f"{secret}\n{kept_secret(tmp_path / 'another')}\n")
    assert kept_secret(path).split()[0] == secret  # two, while it is replaced


@pytest.mark.parametrize("text", ["", "hunter2", "whsec_aHVudGVyMg=="])
def test_what_is_no_secret_is_said_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "webhook-secret"
    path.write_text(text)
    with pytest.raises(CommandError, match="webhook-secret: ") as caught:
        kept_secret(path)
    assert not text or text not in str(caught.value)


def test_a_folder_that_takes_none(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file or directory"):
        kept_secret(tmp_path / "nowhere" / "webhook-secret")
