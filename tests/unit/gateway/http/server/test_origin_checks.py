"""Whom a gateway refuses by `Host`, `Origin` and `Sec-Fetch-*`: the pure decision, as a table."""

from __future__ import annotations

import pytest

from penstock.gateway.clients.origin_policy import OriginPolicy, origin_policy
from penstock.gateway.http.server.origin_checks import refusal
from penstock.shared.contracts.errors import ErrorCode

FORM = "application/x-www-form-urlencoded"
LOOPBACK = origin_policy("", "", loopback=True)
ANYWHERE = origin_policy("", "", loopback=False)
NAMED = origin_policy("models.example.org, penstock", "https://app.example.org", loopback=False)
OPEN = origin_policy("*", "*", loopback=True)

FOREIGN = ErrorCode.FOREIGN_ORIGIN
HOST = ErrorCode.UNKNOWN_HOST
TYPE = ErrorCode.UNSUPPORTED_MEDIA_TYPE

APP = "https://app.example.org"
SITE = "sec-fetch-site"


def page(origin: str, kind: str | None = None, host: str = "m", **more: str) -> dict[str, str]:
    """Headers of a page's request."""
    typed = {} if kind is None else {"content-type": kind}
    return {"host": host, "origin": origin, **typed, **more}


ROWS: list[tuple[str, OriginPolicy, str, dict[str, str], ErrorCode | None]] = [
    # A client that is no browser.
    ("curl", LOOPBACK, "POST", {"host": "localhost:8080", "content-type": FORM}, None),
    ("curl, a text", LOOPBACK, "POST", {"host": "localhost", "content-type": "text/plain"}, None),
    ("no type", LOOPBACK, "POST", {"host": "127.0.0.1:8080"}, None),
    ("HTTP/1.0 without a Host", LOOPBACK, "POST", {}, None),
    # The Host that a request names.
    ("address", LOOPBACK, "GET", {"host": "10.1.2.3:8080"}, None),
    ("IPv6", LOOPBACK, "GET", {"host": "[::1]:8080"}, None),
    ("IPv6 of a network", LOOPBACK, "GET", {"host": "[2001:db8::7]"}, None),
    ("localhost", LOOPBACK, "GET", {"host": "LocalHost"}, None),
    ("localhost of DNS", LOOPBACK, "GET", {"host": "localhost.:8080"}, None),
    ("below localhost", LOOPBACK, "GET", {"host": "models.localhost:8080"}, None),
    ("rebound name", LOOPBACK, "GET", {"host": "evil.example:8080"}, HOST),
    ("rebound name, POST", LOOPBACK, "POST", {"host": "evil.example:8080"}, HOST),
    ("like an address", LOOPBACK, "GET", {"host": "127.0.0.1.evil.example"}, HOST),
    ("like localhost", LOOPBACK, "GET", {"host": "notlocalhost"}, HOST),
    ("localhost before", LOOPBACK, "GET", {"host": "localhost.evil.example"}, HOST),
    ("empty", LOOPBACK, "GET", {"host": ""}, HOST),
    ("a port alone", LOOPBACK, "GET", {"host": ":8080"}, HOST),
    ("no address in brackets", LOOPBACK, "GET", {"host": "[evil.example]:80"}, HOST),
    ("very long", LOOPBACK, "GET", {"host": "a" * 100_000}, HOST),
    ("any name", ANYWHERE, "GET", {"host": "gateway.namespace.svc:8080"}, None),
    ("listed", NAMED, "GET", {"host": "Models.Example.org:443"}, None),
    ("not listed", NAMED, "GET", {"host": "other.example.org"}, HOST),
    ("below one that is listed", NAMED, "GET", {"host": "x.models.example.org"}, HOST),
    ("a probe by address", NAMED, "GET", {"host": "10.0.0.9:8080"}, None),
    ("localhost besides those listed", NAMED, "GET", {"host": "localhost:8080"}, None),
    ("any is allowed", OPEN, "GET", {"host": "evil.example"}, None),
    # Pages.
    (
        "own page",
        LOOPBACK,
        "POST",
        page("http://a.localhost:1", host="a.localhost:1"),
        None,
    ),
    ("own page, TLS", ANYWHERE, "POST", {"host": "M.org", "origin": "https://m.org"}, None),
    (
        "other port",
        LOOPBACK,
        "POST",
        page("http://localhost:2", host="localhost:1"),
        FOREIGN,
    ),
    ("other host", ANYWHERE, "POST", {"host": "m.org", "origin": "https://evil.org"}, FOREIGN),
    ("null", ANYWHERE, "POST", {"host": "m.org", "origin": "null"}, FOREIGN),
    ("host called null", ANYWHERE, "POST", {"host": "null", "origin": "null"}, FOREIGN),
    ("empty origin", ANYWHERE, "POST", {"host": "", "origin": ""}, FOREIGN),
    ("no web page", ANYWHERE, "POST", {"host": "x", "origin": "chrome-extension://x"}, FOREIGN),
    ("no Host", ANYWHERE, "POST", {"origin": "https://m.org"}, FOREIGN),
    ("DELETE", ANYWHERE, "DELETE", {"host": "m.org", "origin": "https://evil.org"}, FOREIGN),
    ("GET", ANYWHERE, "GET", {"host": "m.org", "origin": "https://evil.org"}, None),
    ("HEAD", ANYWHERE, "HEAD", {"host": "m.org", "origin": "null"}, None),
    ("listed", NAMED, "POST", {"host": "penstock", "origin": "https://app.example.org"}, None),
    (
        "listed, http",
        NAMED,
        "POST",
        page("http://app.example.org", host="penstock"),
        FOREIGN,
    ),
    ("any page", OPEN, "POST", {"host": "penstock", "origin": "null"}, None),
    (
        "no origin, cross-site",
        ANYWHERE,
        "POST",
        {"host": "m", SITE: "cross-site"},
        FOREIGN,
    ),
    (
        "no origin, same origin",
        ANYWHERE,
        "POST",
        {"host": "m", SITE: "same-origin"},
        None,
    ),
    ("no origin, GET", ANYWHERE, "GET", {"host": "m", SITE: "cross-site"}, None),
    (
        "origin, cross-site",
        NAMED,
        "POST",
        {"origin": APP, SITE: "cross-site"},
        None,
    ),
    # What pages send.
    ("own form", ANYWHERE, "POST", page("http://m", FORM), TYPE),
    (
        "own text",
        ANYWHERE,
        "POST",
        page("http://m", "Text/Plain;charset=UTF-8"),
        TYPE,
    ),
    (
        "own parts",
        ANYWHERE,
        "POST",
        page("http://m", "multipart/form-data; boundary=x"),
        TYPE,
    ),
    (
        "own JSON",
        ANYWHERE,
        "POST",
        page("http://m", "application/json"),
        None,
    ),
    ("own, no type", ANYWHERE, "POST", {"host": "m", "origin": "http://m"}, None),
    (
        "a form, by its mode",
        ANYWHERE,
        "POST",
        {"sec-fetch-mode": "no-cors", "content-type": FORM},
        TYPE,
    ),
    (
        "a listed page's form",
        NAMED,
        "POST",
        {"origin": APP, "content-type": FORM},
        TYPE,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{row[2]}" for row in ROWS])
def test_who_is_refused(
    row: tuple[str, OriginPolicy, str, dict[str, str], ErrorCode | None],
) -> None:
    _, policy, method, headers, code = row
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    error = refusal(policy, method, raw)
    assert (None if error is None else error.code) == code


def test_what_came_is_named_and_cut_short() -> None:
    error = refusal(LOOPBACK, "GET", {b"host": b'evil"\xff' + b"a" * 1000})
    assert error is not None
    assert 'evil\\"' in error.message
    assert len(error.message) < 250


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        ("http://m.org", ""),
        ("m.org:80", ""),
        ("a b", ""),
        ("*.m.org", ""),
        ("", "m.org"),
        ("", "https://m.org/"),
        ("", "null"),
        ("", "ftp://m.org"),
    ],
)
def test_a_setting_that_is_no_list_of_names_or_origins_is_refused(hosts: str, origins: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        origin_policy(hosts, origins, loopback=False)
