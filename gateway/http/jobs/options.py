"""What a request says of a job beside its input, in parameters, headers and queries; pure.

An option can be given as a parameter of the body or as a header; given both ways, it has to be the
same. Parameters are scalars, as the Open Inference Protocol has them, so that lists are texts with
commas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import RawHeaders
from penstock.gateway.http.tensors.bad_input import bad_input, mismatch, quoted, shown, shown_names
from penstock.gateway.jobs.clients.submission import JobOptions, whole_ms
from penstock.gateway.jobs.settings import JobSettings
from penstock.gateway.webhooks.addresses import Network
from penstock.gateway.webhooks.target import read_target
from penstock.shared.jobs.record import DEFAULT_PRIORITY, FINISHED, PRIORITIES, JobState
from penstock.shared.wire.messages import Parameters, Scalar
from penstock.shared.wire.records import record

TTL, RESULT_TTL = "ttl_seconds", "result_ttl_seconds"
WEBHOOK, WEBHOOK_EVENTS = "webhook", "webhook_events"
OPTIONS = (TTL, RESULT_TTL, WEBHOOK, WEBHOOK_EVENTS)
"""Parameters of a job's body that are not the model's."""

PRIORITY_HEADER = "x-penstock-priority"
IDEMPOTENCY_HEADER = "idempotency-key"

IDEMPOTENCY_KEY_MAX = 255
TENANT_MAX = 255

TOLD_STATES = (JobState.RUNNING, *sorted(FINISHED))
"""States that webhooks can be told."""

_PRINTABLE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")
_EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,18}")
_DIGITS = re.compile(r"[0-9]{1,9}")


def header_of(option: str) -> str:
    """The header that says what a parameter may say: `ttl_seconds` is `x-penstock-ttl-seconds`."""
    return f"x-penstock-{option.replace('_', '-')}"


def split_parameters(parameters: Parameters) -> tuple[Parameters, Mapping[str, Scalar]]:
    """The model's parameters, and the options of a job among them; null means not given."""
    model = tuple(pair for pair in parameters if pair[0] not in OPTIONS)
    options = {name: value for name, value in parameters if name in OPTIONS and value is not None}
    return model, options


def read_options(
    parsed: ParsedInfer,
    options: Mapping[str, Scalar],
    headers: RawHeaders,
    settings: JobSettings,
    webhook_networks: Sequence[Network] | None,
) -> JobOptions:
    """A job's options.

    Args:
        parsed: the body; its timeout is the shorter one of body and headers.
        options: those that `split_parameters` found in it.
        headers: of the request, names in lower case.
        settings: bounds.
        webhook_networks: that webhooks may go to besides public ones; None: there are no webhooks.

    Raises:
        PenstockError: INVALID_INPUT, which names the option.
    """
    webhook = _webhook(options, headers, webhook_networks)
    return JobOptions(
        priority=_priority(parsed.priority, headers),
        timeout_ms=_timeout_ms(parsed.timeout_s, settings.jobs_timeout_s_max),
        queue_ttl_ms=_span_ms(TTL, options, headers, settings.jobs_ttl_s_max),
        result_ttl_ms=_span_ms(RESULT_TTL, options, headers, settings.jobs_result_ttl_s_max),
        webhook=webhook,
        webhook_events=_webhook_events(options, headers, webhook),
        idempotency_key=_name(IDEMPOTENCY_HEADER, headers, IDEMPOTENCY_KEY_MAX),
        tenant=_name(settings.jobs_tenant_header.lower(), headers, TENANT_MAX),
    )


def _header(name: str, headers: RawHeaders) -> str | None:
    given = headers.get(name.encode("ascii"))
    return None if given is None else given.decode("latin-1").strip()


def _name(header: str, headers: RawHeaders, most: int) -> str:
    """A header whose value is somebody's name for something; "" without one."""
    given = headers.get(header.encode("ascii")) if header else None
    if given is None:
        return ""
    if not _PRINTABLE.fullmatch(given) or len(given) > most:
        expected = f"1 to {most} printable ASCII characters"
        raise mismatch(f"header {header}", expected, quoted(given.decode("latin-1")))
    return given.decode("ascii")


def _priority(said: int, headers: RawHeaders) -> int:
    given = _header(PRIORITY_HEADER, headers)
    if given is None:
        return said
    if not _DIGITS.fullmatch(given) or int(given) not in (0, *PRIORITIES):
        expected = f"a whole number from {PRIORITIES[0]} (first) to {PRIORITIES[-1]} (last), or 0"
        raise mismatch(f"header {PRIORITY_HEADER}", expected, quoted(given))
    priority = int(given) or DEFAULT_PRIORITY
    if said not in (DEFAULT_PRIORITY, priority):
        raise _given_twice("priority", PRIORITY_HEADER)
    return priority


def _timeout_ms(timeout_s: float | None, most_s: float) -> int:
    if timeout_s is None:
        return 0
    if timeout_s > most_s:
        raise mismatch("timeout", f"at most {most_s:g} s", f"{timeout_s:g} s")
    return whole_ms(timeout_s)


def _span_ms(name: str, options: Mapping[str, Scalar], headers: RawHeaders, most_s: float) -> int:
    """A span in seconds; 0 without one."""
    expected = f"a number of seconds above 0, at most {most_s:g}"
    header, value = _header(header_of(name), headers), options.get(name)
    if header is not None:
        seconds = _number(header)
        if seconds is None or not 0 < seconds <= most_s:
            raise mismatch(f"header {header_of(name)}", expected, quoted(header))
        if value is not None and value != seconds:
            raise _given_twice(name, header_of(name))
        return whole_ms(seconds)
    if value is None:
        return 0
    if type(value) not in (int, float) or not 0 < value <= most_s:  # type: ignore[operator]
        raise mismatch(f'parameter "{name}"', expected, shown(value))
    return whole_ms(float(value))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(name: str, options: Mapping[str, Scalar], headers: RawHeaders) -> str | None:
    """A text that was given one way or the other."""
    header, value = _header(header_of(name), headers), options.get(name)
    if value is None:
        return header
    if type(value) is not str:
        raise mismatch(f'parameter "{name}"', "a string", shown(value))
    if header is not None and header != value:
        raise _given_twice(name, header_of(name))
    return value


def _given_twice(name: str, header: str) -> Exception:
    return bad_input(f'parameter "{name}" and header {header}: expected the same of both')


def _webhook(
    options: Mapping[str, Scalar], headers: RawHeaders, networks: Sequence[Network] | None
) -> str:
    url = _text(WEBHOOK, options, headers)
    if url is None:
        return ""
    if networks is None:
        raise bad_input("webhook: this gateway sends none, since no secret is set for them")
    read_target(url, networks)
    return url


def _webhook_events(
    options: Mapping[str, Scalar], headers: RawHeaders, webhook: str
) -> tuple[JobState, ...]:
    text = _text(WEBHOOK_EVENTS, options, headers)
    if text is None:
        return tuple(sorted(FINISHED)) if webhook else ()
    if not webhook:
        raise bad_input("webhook_events: expected a webhook with it, got none")
    names = {name.strip() for name in text.split(",")}
    if not names <= set(TOLD_STATES):
        expected = f"states with commas between them ({', '.join(TOLD_STATES)})"
        raise mismatch("webhook_events", expected, quoted(text))
    return tuple(JobState(name) for name in sorted(names))


def accepts_binary(accept: bytes | None) -> bool:
    """Whether an `Accept` names binary tensors, and likes nothing in JSON better."""
    weights: dict[str, float] = {}
    for entry in (accept or b"").decode("latin-1").lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weights[kind] = _number(weight) or 0.0
    binary = weights.get("application/octet-stream", 0.0)
    return binary > 0 and binary >= weights.get("application/json", 0.0)


# Queries ------------------------------------------------------------------------------------------


@record
class Page:
    """Which jobs to list."""

    model: str
    state: JobState | None
    dead: bool
    cursor: str
    limit: int


def check_names(query: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse queries that nobody reads: a misspelt one would go unnoticed.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    for name in query:
        if name not in known:
            expected = shown_names(known) if known else "none"
            raise mismatch("query", expected, quoted(name))


def wait_s_of(query: Mapping[str, str]) -> float:
    """`wait` in seconds; 0 without one.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    given = query.get("wait", "0")
    seconds = _number(given)
    if seconds is None or seconds < 0:
        raise mismatch('query "wait"', "a number of seconds, not negative", quoted(given))
    return seconds


def page_of(query: Mapping[str, str], most: int) -> Page:
    """Which jobs a listing asks for.

    Raises:
        PenstockError: INVALID_INPUT, which names the query.
    """
    check_names(query, ("model", "state", "dead", "limit", "cursor"))
    limit = _limit(query, most)
    dead = _choice("dead", query.get("dead", "false"), ("true", "false")) == "true"
    state = query.get("state")
    if state is not None:
        _choice("state", state, tuple(JobState))
        if dead and state != JobState.FAILED:
            raise mismatch('query "state"', "failed, as all dead letters are", quoted(state))
    cursor = query.get("cursor", "")
    if cursor and not re.fullmatch(r"[0-9a-f]{32}", cursor):
        raise mismatch('query "cursor"', "the next_cursor of an answer", quoted(cursor))
    found_state = None if state is None else JobState(state)
    return Page(query.get("model", ""), found_state, dead, cursor, limit)


def webhook_page_of(query: Mapping[str, str], most: int) -> tuple[str, int]:
    """Which webhooks a listing asks for: those before a cursor ("": the newest), and how many.

    Raises:
        PenstockError: INVALID_INPUT, which names the query.
    """
    check_names(query, ("limit", "cursor"))
    cursor = query.get("cursor", "")
    if cursor and not _EVENT_ID.fullmatch(cursor):
        raise mismatch('query "cursor"', "the next_cursor of an answer", quoted(cursor))
    return cursor, _limit(query, most)


def _limit(query: Mapping[str, str], most: int) -> int:
    given = query.get("limit", str(min(50, most)))
    if not _DIGITS.fullmatch(given) or not 1 <= int(given) <= most:
        raise mismatch('query "limit"', f"a whole number from 1 to {most}", quoted(given))
    return int(given)


def _choice(name: str, given: str, known: Sequence[str]) -> str:
    if given not in known:
        raise mismatch(f'query "{name}"', " or ".join(known), quoted(given))
    return given


def event_id_of(headers: RawHeaders) -> str:
    """`Last-Event-ID`; "" without one.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    given = _header("last-event-id", headers) or ""
    if given and not _EVENT_ID.fullmatch(given):
        raise mismatch("header Last-Event-ID", "the id of an event", quoted(given))
    return given


def cursor_after(found: Sequence[Any], limit: int) -> str | None:
    """Where the next page begins; None if this was the last one."""
    return found[-1].id if len(found) >= limit else None
