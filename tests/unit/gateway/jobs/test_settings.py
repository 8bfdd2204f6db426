"""Settings of what keeps jobs going."""

from __future__ import annotations

import base64
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.settings_flags import settings_from
from penstock.gateway.jobs.keeper.settings import webhook_settings
from penstock.gateway.settings import GatewaySettings

KEYS = (b"k" * 24, b"l" * 32)
SECRETS = " ".join("whsec_" + base64.b64encode(key).decode() for key in KEYS)


def test_without_a_secret_there_are_no_webhooks() -> None:
    assert webhook_settings(GatewaySettings()) is None


def test_secrets_and_networks_reach_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_WEBHOOK_SECRETS", SECRETS)
    given = {"webhook_allow_networks": '["10.0.0.0/8", "fd00::/8"]', "webhook_timeout_s": "3"}
    settings = settings_from(GatewaySettings, given)
    webhooks = webhook_settings(settings)
    assert webhooks is not None
    assert webhooks.keys == list(KEYS)
    assert webhooks.allow_networks == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert webhooks.timeout_s == 3.0
    assert len(webhooks.retry_delays_s) == 9
    assert webhooks.open_per_host_max == 64
    assert "whsec" not in repr(settings)


@pytest.mark.parametrize("secret", ["whsec_c2VjcmV0", "hidden", f"{SECRETS} whsec_!"])
def test_a_bad_secret_is_refused_and_not_shown(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match="--webhook-secrets") as caught:
        settings_from(GatewaySettings, {"webhook_secrets": secret})
    with pytest.raises(ValidationError) as raised:
        GatewaySettings(webhook_secrets=secret)
    for told in (str(caught.value), str(raised.value)):
        assert not any(part in told for part in ("c2VjcmV0", "hidden", *SECRETS.split()))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"webhook_allow_networks": '["10.0.0.1/8"]'}, "not a valid IPv4 network"),
        ({"webhook_retry_delays_s": "[5, -1]"}, "above 0"),
        ({"jobs_look_s": "3"}, "at least twice"),
    ],
)
def test_mistakes_are_told_at_the_start(given: dict[str, Any], named: str) -> None:
    with pytest.raises(CommandError, match=named):
        settings_from(GatewaySettings, given)
