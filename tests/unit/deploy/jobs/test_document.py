"""What a gateway says of jobs, how that is documented, and what commands read of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from penstock.deploy.local.jobs import document as read
from penstock.gateway.http.jobs import schemas as said
from penstock.gateway.http.jobs.documents import (
    as_json,
    job_document,
    page_document,
    undelivered_document,
)
from penstock.gateway.jobs.clients.submission import accepted
from penstock.shared.jobs.answers import JobView, Submitted, Undelivered
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.record import Content, JobState, NewJob

QUEUED = accepted(
    NewJob("id", "m", "1", "r"), Content("text/plain", 1), Submitted("id", True, 1000, 0)
).record
RUNNING = replace(QUEUED, state=JobState.RUNNING, attempts=1, started_ms=1500, progress=0.5)
FAILED = replace(QUEUED, state=JobState.FAILED, error_code="model_error", error_message="it broke")
WEBHOOK = Undelivered("1-0", "id", "m", JobState.FAILED, 3, "answered 404", 2000)


def job(record: Any) -> dict[str, Any]:
    return job_document(JobView(record, None), 2000, None, Durability.ASKED)


def all_of(value: Any) -> Any:
    """What a model was given, all of it known to its class."""
    if isinstance(value, BaseModel):
        return {name: all_of(getattr(value, name)) for name in value.model_fields_set}
    return [all_of(each) for each in value] if isinstance(value, list) else value


def part_of(document: Any, known: Any) -> Any:
    """Of a document, what a command knows."""
    if isinstance(known, dict):
        return {name: part_of(document[name], each) for name, each in known.items()}
    if isinstance(known, list):
        return [part_of(*pair) for pair in zip(document, known, strict=True)]
    return document


@pytest.mark.parametrize(
    ("document", "server", "client"),
    [
        (job(QUEUED), said.JobBody, read.JobDocument),
        (job(RUNNING), said.JobBody, read.JobDocument),
        (job(FAILED), said.JobBody, read.JobDocument),
        (page_document([QUEUED, RUNNING, FAILED], "more", 2000), said.JobPage, read.JobsPage),
        (undelivered_document([WEBHOOK], None), said.UndeliveredPage, read.WebhooksPage),
    ],
)
def test_what_is_said_is_documented_and_read(
    document: dict[str, Any], server: type[BaseModel], client: type[BaseModel]
) -> None:
    body = as_json(document)
    assert all_of(server.model_validate_json(body)) == orjson.loads(body)
    known = all_of(client.model_validate_json(body))
    assert known == part_of(orjson.loads(body), known)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (read.JobProgress, said.JobProgress),
        (read.JobError, said.JobError),
        (read.JobDocument, said.JobBody),
        (read.JobsPage, said.JobPage),
        (read.UndeliveredWebhook, said.UndeliveredWebhook),
        (read.WebhooksPage, said.UndeliveredPage),
    ],
)
def test_commands_read_nothing_that_gateways_do_not_say(
    client: type[BaseModel], server: type[BaseModel]
) -> None:
    assert set(client.model_fields) <= set(server.model_fields)
