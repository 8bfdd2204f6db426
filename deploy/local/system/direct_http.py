"""HTTP to parts of our own system, which never passes a proxy: it would not find them.

Proxies of the environment (`http_proxy` and so on) are for what lies elsewhere. Most clients honour
`no_proxy`, so that is where the loopback is named for all that we start; what calls our own parts
here does not ask the environment at all.
"""

from __future__ import annotations

import urllib.request
from collections.abc import MutableMapping
from http.client import HTTPResponse
from typing import cast

LOOPBACK = ("localhost", "127.0.0.1")
EVERYTHING = "*"

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_direct(url: str, timeout_s: float) -> HTTPResponse:
    """The answer to a GET of one of our own parts.

    Raises:
        OSError: if there is none, or it is no success (`urllib.error.HTTPError`).
    """
    return cast(HTTPResponse, _OPENER.open(url, timeout=timeout_s))


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Name the loopback in `no_proxy`, where some proxy is set; what is named there stays."""
    if not any(name.lower().endswith("_proxy") for name in environment):
        return
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if EVERYTHING in names:
        return
    names += [name for name in LOOPBACK if name not in names]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(names)
