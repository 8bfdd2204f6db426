"""Jobs over HTTP: submit, look or wait, result, events, cancel, retry, delete, list."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from penstock.gateway.http.call_route import Exchange
from penstock.gateway.http.jobs.documents import (
    KEEPALIVE,
    as_json,
    event_text,
    job_document,
    job_event_text,
    page_document,
    undelivered_document,
)
from penstock.gateway.http.jobs.events import HEADERS, EventStream
from penstock.gateway.http.jobs.intake import JobIntake
from penstock.gateway.http.jobs.options import (
    accepts_binary,
    check_names,
    cursor_after,
    event_id_of,
    page_of,
    wait_s_of,
    webhook_page_of,
)
from penstock.gateway.http.jobs.schemas import (
    EVENTS_OPENAPI,
    JOB_ACCEPTED,
    LIST_OPENAPI,
    SUBMIT_OPENAPI,
    UNDELIVERED_OPENAPI,
    WAIT_OPENAPI,
    JobBody,
    JobPage,
    UndeliveredPage,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.schemas import ERRORS, NO_BODY_OPENAPI, InferResponse, Model, Version
from penstock.gateway.http.server.body import unless_client_goes
from penstock.gateway.http.server.lean_route import add_route
from penstock.gateway.jobs.clients.service import JobService
from penstock.shared.jobs.answers import JobEvent, JobView
from penstock.shared.jobs.record import FINISHED
from penstock.shared.wire.messages import PRIORITY_DEFAULT

JobId = Annotated[str, Path(description="The job's id, as its submit answered it.")]


class JobEndpoints:
    """What clients ask of jobs.

    Args:
        jobs: answers.
        intake: takes new ones.
    """

    def __init__(self, jobs: JobService, intake: JobIntake) -> None:
        self._jobs = jobs
        self._intake = intake

    async def submit(self, request: Request, model: Model) -> Response:
        """Have the model run on input tensors, on the version that the traffic policy chooses."""
        return await self._intake.submit(request.scope, request.receive, model, None)

    async def submit_version(self, request: Request, model: Model, version: Version) -> Response:
        """Have this version of the model run on input tensors."""
        return await self._intake.submit(request.scope, request.receive, model, version)

    async def show(self, request: Request, job_id: JobId) -> Response:
        """A job; with `wait`, once it is finished, or after so many seconds."""
        check_names(request.query_params, ("wait",))
        wait_s = wait_s_of(request.query_params)
        asked = self._jobs.job(job_id, wait_s)
        view = await (unless_client_goes(asked, request.receive) if wait_s else asked)
        return self._intake.job_response(view, partial=await self._jobs.partial(view.record))

    async def result(self, request: Request, job_id: JobId) -> Response:
        """What an inference would have answered, in JSON, or as binary tensors by Accept."""
        check_names(request.query_params, ())
        headers = dict(request.scope["headers"])
        exchange: Exchange[ParsedInfer] = Exchange("", None, headers)  # the record names the model
        found = await self._jobs.result(job_id)
        binary = accepts_binary(headers.get(b"accept"))
        client_id = found.client_id or None
        asked = ParsedInfer(
            id=client_id,
            inputs=(),
            outputs=(),
            binary_outputs=frozenset(),
            binary_default=binary,
            parameters=(),
            priority=PRIORITY_DEFAULT,
            timeout_s=None,
        )
        exchange.parsed = asked
        return await self._intake.result_response(exchange, found)

    async def events(self, request: Request, job_id: JobId) -> Response:
        """States, progress and outputs as server-sent events, until the job is finished.

        The first event is the job as it is; it has no id. `Last-Event-ID` resumes after an event;
        204 if the job is finished and nothing came after it.
        """
        check_names(request.query_params, ())
        after = event_id_of(dict(request.scope["headers"]))
        view, events = await self._jobs.first_events(job_id, after)
        if after and not events and view.record.state in FINISHED:
            return Response(status_code=204)  # tells a browser not to connect again
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        return EventStream(self._event_texts(view, after))

    async def cancel(self, request: Request, job_id: JobId) -> Response:
        """Cancel a job: at once if it waits; a running one is told, and its result is not kept."""
        return self._intake.job_response(await self._jobs.cancel(job_id), accepted=True)

    async def retry(self, request: Request, job_id: JobId) -> Response:
        """Queue a job anew that failed (also a dead letter), was canceled or expired."""
        return self._intake.job_response(await self._jobs.retry(job_id), accepted=True)

    async def forget(self, request: Request, job_id: JobId) -> Response:
        """Delete a finished job with its result."""
        await self._jobs.forget(job_id)
        return Response(status_code=204)

    async def page(self, request: Request) -> Response:
        """Jobs, newest first."""
        page = page_of(request.query_params, self._jobs.settings.jobs_page_max)
        found = await self._jobs.page(page.model, page.state, page.dead, page.cursor, page.limit)
        document = page_document(found, cursor_after(found, page.limit), time.time() * 1000)
        return Response(as_json(document), media_type="application/json")

    async def undelivered_webhooks(self, request: Request) -> Response:
        """States of jobs that their webhooks were not told, newest first; the last 1,000."""
        before, limit = webhook_page_of(request.query_params, self._jobs.settings.jobs_page_max)
        found = await self._jobs.undelivered_webhooks(before, limit)
        document = undelivered_document(found, cursor_after(found, limit))
        return Response(as_json(document), media_type="application/json")

    async def _event_texts(self, view: JobView, after: str) -> AsyncGenerator[bytes, None]:
        yield event_text("job", job_document(view, time.time() * 1000))
        async with aclosing(self._jobs.events(view.record.id, after)) as events:
            async for event in events:
                yield KEEPALIVE if event is None else await self._event_text(event)

    async def _event_text(self, event: JobEvent) -> bytes:
        return job_event_text(event, await self._jobs.output(event))


def add_job_routes(router: APIRouter, endpoints: JobEndpoints) -> None:
    """Register the routes of jobs; every GET answers HEAD too."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    job = "/v2/jobs/{job_id}"
    accepted: dict[int | str, dict[str, Any]] = {202: JOB_ACCEPTED, **ERRORS}
    for path, submit in (
        (f"{model}/jobs", endpoints.submit),
        (f"{version}/jobs", endpoints.submit_version),
    ):
        add_route(
            router,
            "POST",
            path,
            submit,
            "Submit a job",
            tag="jobs",
            responses=accepted,
            openapi=SUBMIT_OPENAPI,
        )
    shown: dict[int | str, dict[str, Any]] = {200: {"model": JobBody}, **ERRORS}
    result: dict[int | str, dict[str, Any]] = {200: {"model": InferResponse}, **ERRORS}
    stream: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job is finished, and nothing came after that event."},
        **ERRORS,
    }
    pages: dict[int | str, dict[str, Any]] = {200: {"model": JobPage}, **ERRORS}
    add_route(
        router,
        "GET",
        "/v2/jobs",
        endpoints.page,
        "List jobs",
        tag="jobs",
        responses=pages,
        openapi=LIST_OPENAPI,
    )
    add_route(
        router,
        "GET",
        job,
        endpoints.show,
        "A job",
        tag="jobs",
        responses=shown,
        openapi=WAIT_OPENAPI,
    )
    add_route(
        router, "GET", f"{job}/result", endpoints.result, "Its result", tag="jobs", responses=result
    )
    add_route(
        router,
        "GET",
        f"{job}/events",
        endpoints.events,
        "Its events",
        tag="jobs",
        responses=stream,
        openapi=EVENTS_OPENAPI,
    )
    for action, endpoint in (("cancel", endpoints.cancel), ("retry", endpoints.retry)):
        answers: dict[int | str, dict[str, Any]] = {**shown, 202: JOB_ACCEPTED}
        summary = f"{action.capitalize()} it"
        add_route(
            router,
            "POST",
            f"{job}/{action}",
            endpoint,
            summary,
            tag="jobs",
            responses=answers,
            openapi=NO_BODY_OPENAPI,
        )
    lost: dict[int | str, dict[str, Any]] = {200: {"model": UndeliveredPage}, **ERRORS}
    summary, listed = "Webhooks that were given up", endpoints.undelivered_webhooks
    path = "/v2/webhooks/undelivered"  # below /v2/jobs it would be taken for a job's id
    add_route(
        router,
        "GET",
        path,
        listed,
        summary,
        tag="jobs",
        responses=lost,
        openapi=UNDELIVERED_OPENAPI,
    )
    gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is gone."}, **ERRORS}
    add_route(router, "DELETE", job, endpoints.forget, "Delete it", tag="jobs", responses=gone)
