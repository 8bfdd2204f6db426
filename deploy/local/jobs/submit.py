"""`penstock submit`: hand in a job, and wait for it if asked to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson
from rich.console import Console

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.jobs.document import JobDocument, read_job
from penstock.deploy.local.jobs.gateway_client import GatewayClient, patiently
from penstock.deploy.local.jobs.result import write_result
from penstock.deploy.local.jobs.watch import watch
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.record import JobState

STDIN = "-"


@dataclass(frozen=True)
class SubmitOptions:
    """What the command line asks for beyond the input; None leaves it to the input, or the gateway.

    Attributes:
        timeout_s: longest execution.
        ttl_s: longest wait in the queue.
        result_ttl_s: how long the finished job is kept.
        webhook_events: states to be told.
    """

    priority: int | None = None
    timeout_s: float | None = None
    ttl_s: float | None = None
    result_ttl_s: float | None = None
    webhook: str | None = None
    webhook_events: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """As parameters of a request."""
        timeout_us = None if self.timeout_s is None else int(self.timeout_s * 1_000_000)
        asked = {
            "priority": self.priority,
            "timeout": timeout_us,
            "ttl_seconds": self.ttl_s,
            "result_ttl_seconds": self.result_ttl_s,
            "webhook": self.webhook,
            "webhook_events": ",".join(self.webhook_events) or None,
        }
        return {name: value for name, value in asked.items() if value is not None}


def run_submit(
    client: GatewayClient,
    model: str,
    version: str | None,
    source: str,
    options: SubmitOptions,
    idempotency_key: str | None,
    wait: bool,
    output: Path | None,
) -> int:
    """Submit; returns the exit code. Without `wait`, the job's id is all that is printed.

    Raises:
        CommandError: if the job is not taken, or what it came to cannot be had.
    """
    document = read_input(source)
    if asked := options.parameters():
        document["parameters"] = {**_parameters(document), **asked}
    job = submit(client, model, version, document, idempotency_key or uuid4().hex)
    if warning := warning_of(job.durability):
        print(f"penstock: {warning}", file=sys.stderr)
    if not wait:
        print(job.id)
        return 0
    return finish(client, job.id, output)


def submit(
    client: GatewayClient,
    model: str,
    version: str | None,
    document: Mapping[str, Any],
    idempotency_key: str,
) -> JobDocument:
    """The job; with the key it is one job, however often the request has to be sent.

    Raises:
        CommandError: if it is not taken.
    """
    pinned = f"/versions/{quote(version, safe='')}" if version else ""
    path = f"/v2/models/{quote(model, safe='')}{pinned}/jobs"
    headers = {"content-type": "application/json", "idempotency-key": idempotency_key}
    body = orjson.dumps(document)
    return read_job(patiently(lambda: client.call("POST", path, body=body, headers=headers)))


def warning_of(durability: str | None) -> str:
    """What is to be known of a job that was accepted by a store that may lose it."""
    if durability not in set(Durability):
        return ""  # an older gateway, or a later one
    found = Durability(durability)
    return "" if found.is_sure else f"accepted, but {found.meaning}"


def finish(client: GatewayClient, job_id: str, output: Path | None) -> int:
    """Wait for a job, and write its result; returns the exit code.

    Raises:
        CommandError: if it did not succeed, or the result cannot be had.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    try:
        job = watch(client, job_id, console)
    except KeyboardInterrupt:
        raise CommandError(f"the job goes on; penstock jobs watch {job_id}", 130) from None
    if job.state is not JobState.SUCCEEDED:
        raise CommandError(f"job {job_id}: {job.doing}")
    answer = patiently(lambda: client.call("GET", f"/v2/jobs/{job_id}/result"))
    if output is None:
        sys.stdout.buffer.write(answer + b"\n")
    else:
        write_result(answer, output)
    return 0


def read_input(source: str) -> dict[str, Any]:
    """The request in a file, or on standard input.

    Raises:
        CommandError: if there is no JSON object.
    """
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
        document = orjson.loads(data)
    except OSError as error:
        raise CommandError(f"--input {source}: {error.strerror}", exit_code=2) from error
    except orjson.JSONDecodeError as error:
        raise CommandError(f"--input {source}: no JSON: {error}", exit_code=2) from error
    if not isinstance(document, dict):
        raise CommandError(f"--input {source}: expected an object, as for infer", exit_code=2)
    return document


def _parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise CommandError("--input: expected an object as its parameters", exit_code=2)
    return parameters
