"""Options of jobs: whatever is said, it is within its bounds or refused by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.jobs.options import (
    OPTIONS,
    TOLD_STATES,
    accepts_binary,
    event_id_of,
    header_of,
    page_of,
    read_options,
    split_parameters,
    wait_s_of,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.server.headers import preferred_wait_s
from penstock.gateway.jobs.clients.submission import JobOptions
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.jobs.record import FINISHED, JobState

T = TypeVar("T")

SETTINGS = JobSettings(jobs_tenant_header="X-Team")
BODY = ParsedInfer(None, (), (), frozenset(), False, (), 5, None)
HOOK = "https://example.com/hook"
NAMES = (
    "x-penstock-priority",
    "idempotency-key",
    "x-team",
    *map(header_of, OPTIONS),
)

texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["1", "0", "9", "0.5", "1e3", "inf", "-1", HOOK, "failed", "failed,succeeded"]),
)
integers = st.integers(-(2**63), 2**64 - 1)  # what is beyond, orjson reads as floats
scalars = st.one_of(
    texts, integers, st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)


def read(
    options: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    body: ParsedInfer = BODY,
) -> JobOptions:
    raw = {name.encode(): value.encode("utf-8") for name, value in (headers or {}).items()}
    return read_options(body, options or {}, raw, SETTINGS, ())


def tried(function: Callable[..., T], *arguments: Any) -> T | PenstockError:
    """What a function gives, or how it refuses."""
    try:
        return function(*arguments)
    except PenstockError as error:
        return error


@given(
    st.dictionaries(st.sampled_from(OPTIONS), scalars),
    st.dictionaries(st.sampled_from(NAMES), texts),
    st.integers(1, 9),
    st.none() | st.floats(1e-6, 1e9),
)
def test_whatever_is_said(
    options: dict[str, Any], headers: dict[str, str], priority: int, timeout_s: float | None
) -> None:
    body = replace(BODY, priority=priority, timeout_s=timeout_s)
    found = tried(read, options, headers, body)
    if isinstance(found, PenstockError):
        assert found.code is ErrorCode.INVALID_INPUT
        assert any(name in found.message for name in (*NAMES, *OPTIONS, "priority", "timeout"))
        return
    assert 1 <= found.priority <= 9
    assert 0 <= found.timeout_ms <= SETTINGS.jobs_timeout_s_max * 1000
    assert 0 <= found.queue_ttl_ms <= SETTINGS.jobs_ttl_s_max * 1000
    assert 0 <= found.result_ttl_ms <= SETTINGS.jobs_result_ttl_s_max * 1000
    assert bool(found.webhook) == bool(found.webhook_events)
    assert set(found.webhook_events) <= set(TOLD_STATES)
    for name, span in (("ttl_seconds", found.queue_ttl_ms), ("timeout", found.timeout_ms)):
        said = name in options or header_of(name) in headers
        if name == "timeout":
            said = timeout_s is not None
        assert (span > 0) == said


@given(st.dictionaries(st.sampled_from(OPTIONS[:2]), st.integers(1, 10**7)), st.booleans())
def test_a_header_says_what_a_parameter_says(options: dict[str, Any], hook: bool) -> None:
    said = {**options, **({"webhook": HOOK, "webhook_events": "failed"} if hook else {})}
    headers = {header_of(name): str(value) for name, value in said.items()}
    found = [tried(read, said), tried(read, {}, headers), tried(read, said, headers)]
    refused = [isinstance(each, PenstockError) for each in found]
    assert all(refused) or (not any(refused) and found[0] == found[1] == found[2])


def test_defaults() -> None:
    assert read() == JobOptions()
    assert read({"webhook": HOOK}).webhook_events == tuple(sorted(FINISHED))
    assert read({}, {"x-penstock-priority": "0"}).priority == 5


def test_options_are_not_the_models() -> None:
    parameters = (("ttl_seconds", 5), ("webhook", None), ("zoom", 2))
    model, options = split_parameters(parameters)
    assert (model, options) == ((("zoom", 2),), {"ttl_seconds": 5})


def test_without_a_secret_there_are_no_webhooks() -> None:
    with pytest.raises(PenstockError, match="no secret"):
        read_options(BODY, {"webhook": HOOK}, {}, SETTINGS, None)


@pytest.mark.parametrize(
    ("values", "wait_s"),
    [
        ([], None),
        (["wait=5"], None),
        (["respond-async"], 0.0),
        (["Respond-Async, WAIT=5"], 5.0),
        (["respond-async;x=1", 'wait="7"; y'], 7.0),
        (["wait=3, respond-async, wait=9"], 3.0),
        (["return=minimal"], None),
    ],
)
def test_prefer(values: list[str], wait_s: float | None) -> None:
    headers = [(b"prefer", value.encode()) for value in values]
    assert preferred_wait_s([(b"host", b"x"), *headers]) == wait_s


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_preference(values: list[bytes]) -> None:
    for front in (b"", b"respond-async, wait="):
        wait_s = tried(preferred_wait_s, [(b"prefer", front + value) for value in values])
        if isinstance(wait_s, PenstockError):
            assert "wait" in wait_s.message
        else:
            assert wait_s is None or wait_s >= 0


@pytest.mark.parametrize(
    ("accept", "binary"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"application/octet-stream", True),
        (b"application/json, application/octet-stream", True),
        (b"application/json, application/octet-stream;q=0.5", False),
        (b"application/octet-stream;q=0", False),
        (b"Application/Octet-Stream ; q=0.1, */*", True),
    ],
)
def test_accept(accept: bytes | None, binary: bool) -> None:
    assert accepts_binary(accept) == binary


queries = st.dictionaries(
    st.sampled_from(["model", "state", "dead", "limit", "cursor", "wait", "else"]),
    st.one_of(texts, st.sampled_from(["true", "queued", "0" * 32, "50"])),
)


@given(queries)
def test_any_query(query: dict[str, str]) -> None:
    page = tried(page_of, query, 200)
    if isinstance(page, PenstockError):
        assert any(name in page.message for name in query)
    else:
        assert 1 <= page.limit <= 200
        assert page.state in (None, *JobState)
        assert page.cursor == query.get("cursor", "")


@given(texts)
def test_any_wait_and_any_event(text: str) -> None:
    wait_s = tried(wait_s_of, {"wait": text})
    if isinstance(wait_s, PenstockError):
        assert "wait" in wait_s.message
    else:
        assert 0 <= wait_s < math.inf
    event = tried(event_id_of, {b"last-event-id": text.encode()})
    if isinstance(event, PenstockError):
        assert "Last-Event-ID" in event.message
    else:
        assert event == "" or event.count("-") == 1
