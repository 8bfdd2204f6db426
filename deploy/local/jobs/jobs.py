"""`penstock jobs`: look at jobs, and act on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from urllib.parse import quote

import orjson
from rich.table import Table

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import one_line, table_console
from penstock.deploy.local.jobs.cause import StorePlace, read_cause
from penstock.deploy.local.jobs.document import (
    lines_of,
    read_job,
    read_page,
    read_webhooks,
    table_of,
)
from penstock.deploy.local.jobs.gateway_client import GatewayClient, patiently


def run_list(
    client: GatewayClient,
    model: str | None,
    state: str | None,
    dead: bool,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> int:
    """Print jobs, newest first; returns the exit code.

    Raises:
        CommandError: if the gateway does not tell.
    """
    asked = {"model": model, "state": state, "dead": "true" if dead else None, "cursor": cursor}
    query = {name: value for name, value in asked.items() if value} | {"limit": str(limit)}
    body = patiently(lambda: client.call("GET", "/v2/jobs", query=query))
    if as_json:
        print(_indented(body))
    else:
        page = read_page(body)
        shown = [table_of(page.jobs)] if page.jobs else []
        _print_page(shown, "No jobs.", page.next_cursor)
    return 0


def run_webhooks(client: GatewayClient, limit: int, cursor: str | None, as_json: bool) -> int:
    """Print webhooks that were given up, newest first; returns the exit code.

    Raises:
        CommandError: if the gateway does not tell.
    """
    query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
    body = patiently(lambda: client.call("GET", "/v2/webhooks/undelivered", query=query))
    if as_json:
        print(_indented(body))
    else:
        page = read_webhooks(body)
        lines = [each.line for each in page.webhooks]
        _print_page(lines, "No webhooks were given up.", page.next_cursor)
    return 0


def _print_page(shown: Sequence[Table | str], nothing: str, next_cursor: str | None) -> None:
    """A page of a list, and how to see the one after it."""
    console = table_console()
    for part in shown or [nothing]:
        console.print(part, soft_wrap=isinstance(part, str))
    if next_cursor:
        console.print(f"older ones: --cursor {next_cursor}", soft_wrap=True)


def run_show(
    client: GatewayClient, job_id: str, as_json: bool, place: StorePlace | None = None
) -> int:
    """Print all that is known of a job; returns the exit code.

    Args:
        place: the store, which tells what the model raised; None: it is not known.

    Raises:
        CommandError: if there is no such job.
    """
    body = patiently(lambda: client.call("GET", job_path(job_id)))
    job = read_job(body)
    cause = ""
    if place is not None and job.error is not None:
        try:
            cause = read_cause(place, job_id)
        except CommandError as error:
            print(f"penstock: what it raised is not known: {error.message}", file=sys.stderr)
    if as_json:
        print(_indented(_with_cause(body, cause)))
    else:
        print("\n".join([*lines_of(job), *([f"{'cause':<12}{one_line(cause)}"] if cause else [])]))
    return 0


def _with_cause(body: bytes, cause: str) -> bytes:
    document = orjson.loads(body)
    if cause:
        document["error"]["cause"] = cause
    return orjson.dumps(document)


def run_each(client: GatewayClient, method: str, action: str, job_ids: Sequence[str]) -> int:
    """Do one thing to each job, and print what became of it; 1 if any was refused.

    Args:
        method: of HTTP.
        action: the path below the job's, such as `/cancel`; may be empty.
    """
    refused = 0
    for job_id in job_ids:
        try:
            _act(client, method, f"{job_path(job_id)}{action}", job_id)
        except CommandError as error:
            refused = 1
            print(f"{job_id}: {error.message}")
    return refused


def job_path(job_id: str) -> str:
    """A job's path at the gateway."""
    return f"/v2/jobs/{quote(job_id, safe='')}"


def _act(client: GatewayClient, method: str, path: str, job_id: str) -> None:
    body = patiently(lambda: client.call(method, path))
    print(f"{job_id}: {read_job(body).doing if body else 'forgotten'}")


def _indented(body: bytes) -> str:
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()
