"""Signatures, by the scheme's own test vector."""

from __future__ import annotations

import base64

import pytest
from pydantic import ValidationError

from penstock.gateway.webhooks.event import WebhookEvent
from penstock.gateway.webhooks.settings import WebhookSettings
from penstock.gateway.webhooks.signing import key_of, signed_headers

# From the reference libraries of Standard Webhooks (`test_sign_function`).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = WebhookEvent("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
UNIX_S = 1614265330
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_reference_vector() -> None:
    assert signed_headers(EVENT, [key_of(SECRET)], UNIX_S) == [
        ("webhook-id", EVENT.event_id),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", SIGNATURE),
    ]


def test_each_secret_signs() -> None:
    new = b"n" * 32
    *_, (_, both) = signed_headers(EVENT, [new, key_of(SECRET)], UNIX_S)
    *_, (_, alone) = signed_headers(EVENT, [new], UNIX_S)
    assert both.split(" ") == [alone, SIGNATURE]
    assert alone != SIGNATURE


@pytest.mark.parametrize("size", [24, 32, 64])
def test_keys_of_every_allowed_size(size: int) -> None:
    assert key_of("whsec_" + base64.b64encode(b"k" * size).decode()) == b"k" * size


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_not*base64",
        "whsec_" + base64.b64encode(b"k" * 23).decode(),
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
    ],
)
def test_what_is_no_secret_is_refused_and_not_told(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookSettings.model_validate({"secrets": [secret]})
    told = secret.removeprefix("whsec_")
    assert not told or told not in str(caught.value)


def test_a_secret_is_needed() -> None:
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate({"secrets": []})
