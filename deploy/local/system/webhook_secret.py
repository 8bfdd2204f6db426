"""The secret by which a local system signs its webhooks: made once, and kept in its data directory.

Receivers hold it too, so it stays the same over restarts. Next stop:
`penstock.gateway.webhooks.signing`.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.whole_file import write_whole
from penstock.gateway.webhooks.signing import PREFIX, key_of

SECRET_BYTES = 32
SECRET_MODE = 0o600


def kept_secret(path: Path) -> str:
    """What the file holds: `whsec_...`, or several with spaces between them; made if it is absent.

    Raises:
        CommandError: if it cannot be read or written, or holds no secrets.
    """
    try:
        if not path.exists():
            write_whole(path, f"{_new_secret()}\n".encode(), SECRET_MODE)
        held = path.read_text().split()
        for secret in held:
            key_of(secret)
    except OSError as error:
        raise CommandError(f"webhook secret {path}: {error.strerror}") from error
    except ValueError as error:  # its message does not tell the secret
        raise CommandError(f"webhook secret {path}: {error}") from error
    if not held:
        raise CommandError(f"webhook secret {path}: the file is empty; remove it for a new one")
    return " ".join(held)


def _new_secret() -> str:
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
