"""From a request to a job: the same body, read by the same parser, as for an inference.

Previous stop of a request: `penstock.gateway.http.jobs.routes`, or
`penstock.gateway.http.oip.routes` for `Prefer: respond-async`. Next:
`penstock.gateway.jobs.clients.service`.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from fastapi import Response
from starlette.types import Receive, Scope, Send

from penstock.gateway.http.bodies.beside_loop import beside_loop
from penstock.gateway.http.bodies.readers import body_readers
from penstock.gateway.http.call_route import (
    CallContext,
    CallSteps,
    Exchange,
    compressed,
    is_large,
    reply_head,
    shorter,
)
from penstock.gateway.http.errors import failure_response
from penstock.gateway.http.jobs.documents import as_json, job_document, output_document
from penstock.gateway.http.jobs.options import read_options, split_parameters
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import PayloadFormat, RawHeaders
from penstock.gateway.http.reply import Reply, ReplyResponse
from penstock.gateway.http.server.body import BodyTooLargeError, read_body, unless_client_goes
from penstock.gateway.http.server.headers import (
    content_coding_of,
    request_id_of,
    timeout_s_header,
    trace_context_of,
)
from penstock.gateway.http.tensors.checks import check_row_count
from penstock.gateway.jobs.clients.byte_budget import ByteShare
from penstock.gateway.jobs.clients.outcomes import check_succeeded
from penstock.gateway.jobs.clients.service import JobAnswer, JobService, PartialOutput
from penstock.gateway.jobs.clients.submission import Submission
from penstock.gateway.memory.held_bytes import ARRIVING, HeldShare
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import VersionRoute
from penstock.shared.jobs.answers import JobView
from penstock.shared.jobs.payload import JobInput
from penstock.shared.jobs.record import FINISHED, JobState
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import Buffer

NO_JOBS = "this version takes no jobs (its tag penstock.jobs is off): POST to its path /infer"


class JobIntake:
    """Takes jobs.

    Args:
        jobs: where they go.
        context: of inference: the service and settings.
        steps: of inference, for answers that are to look like its own.
        payload: reads the body, as that of an inference.
    """

    def __init__(
        self,
        jobs: JobService,
        context: CallContext,
        steps: CallSteps[ParsedInfer],
        payload: PayloadFormat[ParsedInfer],
    ) -> None:
        self._jobs = jobs
        self._service = context.service
        self._held = context.held
        self._settings = context.settings
        self._steps = steps
        self._payload = payload

    def takes(self, model: str, version: str | None) -> bool:
        """Whether a preference for a job can be met; if not, it is an inference like any other.

        Raises:
            PenstockError: what the service says of the model.
        """
        return self._service.route(model, version).jobs != "off"

    async def submit(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        """Answer a submit: the job, once it is accepted."""
        return await self._submit(scope, receive, model, version)

    async def infer(
        self, scope: Scope, receive: Receive, model: str, version: str | None, wait_s: float
    ) -> Response:
        """Answer an inference as a job: by its answer if that is there in time, else by the job."""
        try:
            response = await self._infer(scope, receive, model, version, wait_s)
        except BodyTooLargeError as error:
            request_id = request_id_of(dict(scope["headers"]))
            response = failure_response(error, request_id, self._settings.retry_after_s)
        response.headers["preference-applied"] = "respond-async"
        return response

    async def _submit(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        _, submission = await self._read(scope, receive, model, version)
        return self.job_response(await self._jobs.submit(submission), accepted=True)

    async def _infer(
        self, scope: Scope, receive: Receive, model: str, version: str | None, wait_s: float
    ) -> Response:
        exchange: Exchange[ParsedInfer] = Exchange(model, version, dict(scope["headers"]))
        exchange.parsed, submission = await self._read(scope, receive, model, version)
        view = await self._jobs.submit(submission)
        try:
            response = await self._result_in_time(exchange, receive, view, wait_s)
        except Exception as error:  # who sees it is to find the job all the same
            request_id = request_id_of(exchange.headers)
            response = failure_response(error, request_id, self._settings.retry_after_s)
        response.headers["location"] = location_of(view)
        return response

    async def _result_in_time(
        self,
        exchange: Exchange[ParsedInfer],
        receive: Receive,
        view: JobView,
        wait_s: float,
    ) -> Response:
        """What an inference would have answered; the job (202) if that cannot be told for now.

        Raises:
            PenstockError: what the job failed with, or why there will be no result.
        """
        try:
            if wait_s > 0 and not self._jobs.watch.is_full:
                waiting = self._jobs.job(view.record.id, wait_s)
                view = await unless_client_goes(waiting, receive)
            if view.record.state is JobState.SUCCEEDED:
                found = await self._jobs.result(view.record.id)
                return await self.result_response(exchange, found)
        except PenstockError as error:
            if not error.retryable:
                raise
        if view.record.state in FINISHED:
            check_succeeded(view.record)
        response = self.job_response(view, accepted=True)
        response.status_code = HTTPStatus.ACCEPTED  # 200 would be an inference's answer
        return response

    async def _read(
        self, scope: Scope, receive: Receive, model: str, pin: str | None
    ) -> tuple[ParsedInfer, Submission]:
        headers: RawHeaders = dict(scope["headers"])
        self._payload.check(headers)
        settings = self._settings
        coding = content_coding_of(scope["headers"])
        share = HeldShare(self._held, ARRIVING)
        try:  # from then on, the submit's own share counts
            body = await read_body(
                headers=headers,
                coding=coding,
                receive=receive,
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.body_timeout_s,
                share=share,
            )
            apart, body = [body], b""
            return await self._parsed(apart, headers, model, pin)
        finally:
            share.release()

    async def _parsed(
        self, body: list[Buffer], headers: RawHeaders, model: str, pin: str | None
    ) -> tuple[ParsedInfer, Submission]:
        """Of a body in a list of nothing else; see `penstock.gateway.http.bodies.readers`."""
        route = self._service.route(model, pin)
        if route.jobs == "off":
            raise PenstockError(ErrorCode.NOT_OFFERED, NO_JOBS)
        interface = self._service.metadata(model, route.version).interface
        if self._payload.takes_long(body[0], headers, interface):
            most, timeout_s = self._settings.max_request_elements, timeout_s_header(headers)
            parsed = await body_readers.read(
                payload=self._payload,
                body=body,
                headers=headers,
                interface=interface,
                max_elements=most,
                timeout_s=timeout_s,
            )
        else:
            parsed = self._payload.parse(body.pop(), headers, interface)
        check_row_count(parsed.inputs, interface, self._settings.max_request_rows)
        return parsed, self._submission(parsed, headers, model, pin, route)

    def _submission(
        self,
        parsed: ParsedInfer,
        headers: RawHeaders,
        model: str,
        pin: str | None,
        route: VersionRoute,
    ) -> Submission:
        timed = replace(parsed, timeout_s=shorter(parsed.timeout_s, timeout_s_header(headers)))
        parameters, stated = split_parameters(parsed.parameters)
        jobs = self._jobs
        options = read_options(timed, stated, headers, jobs.settings, jobs.webhook_networks)
        request = Request(
            attempt_id=0,
            budget_us=0,
            inputs=parsed.inputs,
            priority=options.priority,
            traceparent=trace_context_of(headers),
            outputs=parsed.outputs,
            parameters=parameters,
        )
        job_input = JobInput(parsed.id or "", request)
        return Submission(
            model=model,
            pin=pin,
            version=route.version,
            revision=route.revision,
            input=job_input,
            options=options,
        )

    def job_response(
        self, view: JobView, *, accepted: bool = False, partial: PartialOutput | None = None
    ) -> Response:
        """A job as an answer; the share of its output is released once it was sent.

        Args:
            view: the job.
            accepted: whether it is the answer to a wish that is yet to be fulfilled (202).
            partial: its last output.
        """
        headers = {"location": location_of(view)}
        finished = view.record.state in FINISHED
        if not finished:
            headers["retry-after"] = str(math.ceil(self._jobs.settings.jobs_retry_after_s))
        status = HTTPStatus.ACCEPTED if accepted and not finished else HTTPStatus.OK
        if partial is None:
            durability = self._jobs.durability if accepted else None
            document = job_document(view, time.time() * 1000, durability=durability)
            return Response(as_json(document), status, headers, "application/json")
        try:
            shown = output_document(partial.content, partial.body)
            document = job_document(view, time.time() * 1000, shown)
            return JobResponse(as_json(document), status, headers, partial.share)
        except BaseException:
            partial.share.release()
            raise

    async def result_response(self, exchange: Exchange[ParsedInfer], found: JobAnswer) -> Response:
        """A result as an inference would have answered it to this request, which is parsed.

        The result's share is released once the response was sent.
        """
        try:
            return ResultResponse(await self._reply(exchange, found), found.share)
        except BaseException:
            found.share.release()
            raise

    async def _reply(self, exchange: Exchange[ParsedInfer], found: JobAnswer) -> Reply:
        if is_large(found.answer):
            body = await beside_loop(partial(self._steps.body, exchange, found.answer))
        else:
            body = self._steps.body(exchange, found.answer)
        if body.wanted is not None:
            body = await compressed(body, body.wanted)
        total_s = time.perf_counter() - exchange.started_s
        return Reply(reply_head(exchange, found.answer, body, total_s), body.parts)


class SharingResponse(Response):
    """A response for ASGI that holds a share of the bytes of results until it was sent.

    Attributes:
        share: released afterwards, however the sending went.
    """

    share: ByteShare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and body, then release the share."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.share.release()


class ResultResponse(SharingResponse, ReplyResponse):
    """A result, which may be large."""

    def __init__(self, reply: Reply, share: ByteShare) -> None:
        super().__init__(reply)
        self.share = share


class JobResponse(SharingResponse):
    """A job with an output, which may be large."""

    def __init__(
        self, body: bytes, status: HTTPStatus, headers: dict[str, str], share: ByteShare
    ) -> None:
        super().__init__(body, status, headers, "application/json")
        self.share = share


def location_of(view: JobView) -> str:
    """Where a job is to be found."""
    return f"/v2/jobs/{view.record.id}"
