"""Names of things: who sent a message, which call, which process life."""

from __future__ import annotations

import os
import re
import secrets
import socket

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,254}")
"""Names a model may have in a URL path segment; MLflow allows more, which we report as invalid."""


def new_incarnation(prefix: str) -> str:
    """An id of one life of one process, never used again: `prefix-<12 hex digits>`."""
    return f"{prefix}-{secrets.token_hex(6)}"


def new_request_id() -> str:
    """A fresh id for a request whose client gave none: 32 hex digits."""
    return secrets.token_hex(16)


def node_name() -> str:
    """The name of this machine, for reports to operators."""
    return os.environ.get("PENSTOCK_NODE_NAME") or socket.gethostname()
