"""Signatures by the Standard Webhooks scheme (https://www.standardwebhooks.com), version `v1`.

    signed:   id "." timestamp "." body
    key:      the bytes of which a secret is the base64, after `whsec_`
    header:   webhook-signature: v1,<base64 of HMAC-SHA256> v1,<...>

There is a signature for each secret. So a secret is changed by adding the new one, changing the
receivers, and removing the old one: in between, receivers of either are content.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

from penstock.gateway.webhooks.event import WebhookEvent

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
"""Sizes of key that the scheme allows."""


def key_of(secret: str) -> bytes:
    """The key in a secret `whsec_<base64 of 24 to 64 bytes>`.

    Raises:
        ValueError: if it is none; the message does not tell it.
    """
    if not secret.startswith(PREFIX):
        raise ValueError(f"a webhook secret begins with {PREFIX}")
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a webhook secret is {PREFIX} and base64: {error}") from None
    if len(key) not in KEY_BYTES:
        raise ValueError(f"a webhook secret has 24 to 64 bytes, got {len(key)}")
    return key


def signed_headers(
    event: WebhookEvent, keys: Sequence[bytes], unix_s: int
) -> list[tuple[str, str]]:
    """The headers that prove where an event comes from.

    Args:
        keys: of all secrets that are in use.
        unix_s: when this attempt is made; receivers refuse what is minutes old.
    """
    content = b"%b.%d.%b" % (event.event_id.encode(), unix_s, event.body)
    signatures = [hmac.digest(key, content, hashlib.sha256) for key in keys]
    return [
        ("webhook-id", event.event_id),
        ("webhook-timestamp", str(unix_s)),
        ("webhook-signature", " ".join(f"v1,{b64encode(each).decode()}" for each in signatures)),
    ]
