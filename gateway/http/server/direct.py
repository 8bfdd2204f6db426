"""A client's connection that serves inference without a task: the short way of the hot route.

uvicorn's parser calls back with what arrives on a connection. A plain HTTP/1.1 `POST .../infer`, or
`.../invocations` with a model's name (one `Content-Length`, nothing compressed, nothing pipelined,
nothing to be asked or refused by its headers) is taken from the parser's callbacks to the service,
and answered from the service's callback: no task, no ASGI messages, one write. A head that has come
before is not even parsed (see `penstock.gateway.http.server.heads`). Everything else takes the
ordinary way, through FastAPI to `penstock.gateway.http.call_route`. Both ways go by the same steps
(`CallSteps`), and tests/unit/gateway/http/server/test_both_ways.py holds them to the same answers.

To uvicorn, a request that is served here is the connection's *cycle*, as any other.

Previous stop of a request: the client. Next: `penstock.gateway.http.call_route` for the steps, then
`penstock.gateway.inference.service`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from fastapi import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from penstock.gateway.http.bodies.beside_loop import beside_loop
from penstock.gateway.http.bodies.element_bounds import LARGE_BYTES
from penstock.gateway.http.call_route import (
    JOINED_BYTES_MAX,
    Body,
    CallSteps,
    Exchange,
    compressed,
    hand_over,
    is_large,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import RawHeaders
from penstock.gateway.http.reply import Reply
from penstock.gateway.http.server.body import BodyTimeoutError, client_gone
from penstock.gateway.http.server.connection import GIVEN_UP, GracefulConnection
from penstock.gateway.http.server.heads import Head, KnownHeads, head_of
from penstock.gateway.http.server.origin_checks import is_form, is_from_browser
from penstock.gateway.http.traced_app import begin_span, end_span, with_context
from penstock.gateway.inference.port import CallOutcome, Inference
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.gateway.memory.held_bytes import (
    ARRIVING,
    SLOW_BODY_S,
    SMALL_BYTES_MAX,
    UNREAD,
    HeldShare,
)
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.process.tracing import Span, Tracer
from penstock.shared.wire.tensors import Buffer

CLOSES = (b"connection", b"close")

STATUS_OK: Final = 200

PLAIN_TYPES = frozenset({b"", b"application/json", b"application/octet-stream"})
"""Types of bodies that are no form, as nearly all clients write them."""


class _Unheard:
    """What uvicorn sets when something happens to a cycle; here, callbacks tell it."""

    def set(self) -> None: ...


_UNHEARD = _Unheard()


class DirectRequest(Exchange[Any]):
    """One request that is served here.

    Attributes:
        head: of the request.
        steps: what is done with it.
        body: what has come of it.
        whole: whether all of it has.
        patience: ends a body that trickles in.
        call_id: of the service, while it runs.
        span: if the request is recorded.
        task: reads its body, or writes its answer, beside the loop.
        share: of what the gateway holds, for a body that came in pieces, or is large.
        keep_alive, response_started, response_complete, disconnected, message_event: uvicorn's, of
            what it calls a cycle.
    """

    body: Buffer = b""
    whole: bool = False
    patience: asyncio.TimerHandle | None = None
    call_id: int | None = None
    span: Span | None = None
    response_started: bool = False
    response_complete: bool = False
    disconnected: bool = False
    message_event = _UNHEARD
    share: HeldShare | None = None
    task: asyncio.Task[None] | None = None

    def __init__(
        self, head: Head, headers: RawHeaders, keep_alive: bool, steps: CallSteps[Any]
    ) -> None:
        super().__init__(head.model, head.version, headers)
        self.head = head
        self.steps = steps
        self.keep_alive = keep_alive

    def release(self) -> None:
        """Nothing of it is held any more."""
        if self.share is not None:
            self.share.release()


def _is_raw(parsed: Any, answer: InferenceAnswer) -> bool:
    """Whether all outputs go out as they are."""
    if not isinstance(parsed, ParsedInfer):
        return False
    return all(parsed.wants_binary(out.name) for out in answer.outputs)


def _submit(
    service: Inference,
    request: DirectRequest,
    call: InferenceCall,
    on_outcome: Callable[[CallOutcome], None],
) -> None:
    """Have a call executed. A function, because to call a connection's methods takes longer."""
    if request.share is not None:
        hand_over(request.share, call)
    request.call_id = service.submit(call, on_outcome)


@dataclass
class ShortWay:
    """What all connections of a server share.

    Attributes:
        steps: what is done with an inference request.
        scoring: what is done with one in the words of MLflow's scoring server.
        tracer: records requests that are sampled; None: nothing is.
        heads: what was found out about heads of requests.
    """

    steps: CallSteps[ParsedInfer]
    scoring: CallSteps[Any]
    tracer: Tracer | None = None
    heads: KnownHeads = field(default_factory=KnownHeads)
    _defaults: list[tuple[bytes, bytes]] = field(default_factory=list)
    _default_head: bytes = b""

    def default_head(self, state: ServerState) -> bytes:
        """Headers of every answer; uvicorn makes a new list of them each second, for the date."""
        headers = state.default_headers
        if self._defaults is not headers:
            self._defaults = headers
            self._default_head = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._default_head


class DirectConnection(GracefulConnection):
    """See the module's docstring."""

    cycle: Any  # a `DirectRequest`, or one of uvicorn's own

    def __init__(self, *arguments: Any, way: ShortWay, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._way = way
        self._steps: CallSteps[Any] = way.steps  # and what does not depend on the words
        self._tracer = way.tracer
        self._heads = way.heads
        self._direct: DirectRequest | None = None
        self._host: bytes | None = None  # the last one that was seen to be ours
        self._between = True  # requests: the parser has seen the end of the last one
        self._data = b""

    # What comes

    def data_received(self, data: bytes) -> None:
        """The client sent something."""
        if self._between and self._is_free() and not self.draining:
            known = self._heads.match(data)
            if known is not None:
                head, end = known
                self.wait_no_more()
                self._begin(head, keep_alive=True)
                self._steps.metrics.body_copied_bytes += head.length
                self._run(data[end:])
                return
        self._data = data
        super().data_received(data)
        self._data = b""
        request = self._direct
        if request is not None and not request.whole and request.patience is None:
            self._wait_for_body(request)

    def on_message_begin(self) -> None:
        """A request begins; which way it takes is decided when its headers are there."""
        self._between = False
        self.head_begins()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way, unless an answer before was the last one."""
        if self.lingers:
            return
        head = self._find_head() if self._is_free() else None
        if head is not None:
            self.head_has_come()
            self._begin(head, self.parser.should_keep_alive() and not self.draining)
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come, or all of it."""
        request = self._direct
        if request is None or self.cycle is not request:
            if not isinstance(self.cycle, DirectRequest):
                super().on_body(body)
        elif len(body) == request.head.length:
            request.body = body  # the usual case: no copy
        else:
            self._steps.metrics.body_copied_bytes += len(body)
            if isinstance(request.body, bytearray):
                request.body += body
            else:
                request.body = bytearray(body)
                request.share = HeldShare(self._steps.held, ARRIVING)
            self._hold(request, len(request.body))

    def on_message_complete(self) -> None:
        """A request is all there."""
        self._between = True
        request = self._direct
        if request is None or self.cycle is not request or self._declined:
            if request is None and isinstance(self.cycle, DirectRequest):
                return  # it was refused before all of it had come
            super().on_message_complete()
            return
        if request.patience is not None:
            request.patience.cancel()
        body = request.body
        if request.keep_alive and isinstance(body, bytes):
            self._heads.learn(self._data, request.head, body)
        self._run(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: nobody waits for the answer any more."""
        request, self._direct = self._direct, None
        super().connection_lost(exc)
        if request is None:
            return
        self._give_up_work(request)
        request.release()
        request.body, request.parsed = b"", None  # a dead connection is collected late
        request.steps.fail(request, client_gone())
        request.steps.end()
        end_span(request.span, 0)

    def give_up(self) -> None:
        """The server leaves, and has no time left."""
        request = self._direct
        if request is None:
            super().give_up()
            return
        self._give_up_work(request)
        request.keep_alive = False
        error = PenstockError(ErrorCode.SHUTTING_DOWN, GIVEN_UP)
        self._respond(request.steps.fail(request, error))

    def _give_up_work(self, request: DirectRequest) -> None:
        """Nothing that goes on for a request is needed any more."""
        if request.patience is not None:
            request.patience.cancel()
        if request.task is not None:
            request.task.cancel()
        if request.call_id is not None:
            self._steps.service.cancel(request.call_id)

    # The way of a request that is served here

    def _is_free(self) -> bool:
        """Whether all that came before has been answered, and the client reads its answers."""
        before = self.cycle
        return (before is None or before.response_complete) and not self.flow.write_paused

    def _find_head(self) -> Head | None:
        """The head that the parser has just read; None if it is not for the short way."""
        if self.parser.get_method() != b"POST" or self.root_path:
            return None
        head = head_of(self.url, self.headers, self._steps.settings.max_body_bytes)
        if head is None or self.parser.get_http_version() != "1.1":
            return None
        if not self._is_plain(head.headers):
            return None
        try:
            self._steps_of(head).check(head.headers)
        except PenstockError:
            return None
        return head

    def _steps_of(self, head: Head) -> CallSteps[Any]:
        return self._way.scoring if head.scoring else self._steps

    def _is_plain(self, headers: RawHeaders) -> bool:
        """Whether `origin_checks` refuses nothing: our own name, and nothing of a browser."""
        host = headers.get(b"host")
        if host != self._host:
            if host is not None and not self._steps.settings.origins.knows_host(host):
                return False
            self._host = host
        if b"origin" in headers or b"sec-fetch-site" in headers:
            return False
        kind = headers.get(b"content-type", b"")
        return kind in PLAIN_TYPES or not (is_form(kind) and is_from_browser(headers))

    def _begin(self, head: Head, keep_alive: bool) -> None:
        headers, span = head.headers, None
        if self._tracer is not None:
            span = begin_span(self._tracer, "POST", head.path, headers)
        if span is not None:
            headers = dict(with_context(headers.items(), span.context))
        steps = self._way.scoring if head.scoring else self._steps
        steps.begin()
        self.cycle = self._direct = request = DirectRequest(head, headers, keep_alive, steps)
        if span is not None:
            request.span = span

    def _run(self, body: Buffer) -> None:
        """The request is whole: have it executed."""
        request = self._direct
        assert request is not None
        steps = request.steps
        request.whole = True
        request.body = b""
        try:
            if len(body) > SMALL_BYTES_MAX and request.share is None:
                request.share = HeldShare(steps.held, ARRIVING)
                request.share.resize(len(body))
            if len(body) > LARGE_BYTES:
                interface = steps.interface(request, body)
                if steps.payload.takes_long(body, request.headers, interface):
                    self._in_background(request, self._run_apart(request, [body], interface))
                    return
            _submit(steps.service, request, steps.call(request, body), self._answered)
        except Exception as error:
            self._respond(steps.fail(request, error))

    async def _run_apart(
        self, request: DirectRequest, body: list[Buffer], interface: ModelInterface
    ) -> None:
        """The same for a body that takes long to read."""
        steps = request.steps
        try:
            call = await steps.read_apart(request, body, interface)
            if self._direct is request:
                _submit(steps.service, request, call, self._answered)
        except Exception as error:
            if self._direct is request:
                self._respond(steps.fail(request, error))

    def _in_background(self, request: DirectRequest, work: Coroutine[Any, Any, None]) -> None:
        request.task = task = self.loop.create_task(work)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _hold(self, request: DirectRequest, size_bytes: int) -> None:
        """So much of the body is here now; refuse it if there is no room for that."""
        assert request.share is not None
        try:
            request.share.resize(size_bytes)
        except PenstockError as error:
            self._refuse_body(request, error)

    def _refuse_body(self, request: DirectRequest, error: PenstockError) -> None:
        if request.patience is not None:
            request.patience.cancel()
        self._respond(request.steps.fail(request, error))

    def _wait_for_body(self, request: DirectRequest) -> None:
        timeout_s = self._steps.settings.body_timeout_s
        if timeout_s > SLOW_BODY_S:
            request.patience = self.loop.call_later(SLOW_BODY_S, self._body_is_slow)
        else:
            request.patience = self.loop.call_later(timeout_s, self._body_timeout)

    def _body_is_slow(self) -> None:
        request = self._direct
        if request is None or request.whole:
            return
        left_s = self._steps.settings.body_timeout_s - SLOW_BODY_S
        request.patience = self.loop.call_later(left_s, self._body_timeout)
        try:
            if request.share is not None:
                request.share.become_ordinary()
        except PenstockError as error:
            self._refuse_body(request, error)

    def _body_timeout(self) -> None:
        request = self._direct
        if request is not None and not request.whole:
            error = BodyTimeoutError(self._steps.settings.body_timeout_s)
            self._respond(request.steps.fail(request, error))

    def _answered(self, outcome: CallOutcome) -> None:
        """The service is done with the call; it calls this at most once for each."""
        request = self._direct
        assert request is not None
        steps = request.steps
        if isinstance(outcome, PenstockError):
            self._respond(steps.fail(request, outcome))
            return
        response: Reply | Response
        try:
            if is_large(outcome) and not _is_raw(request.parsed, outcome):
                self._write_beside_loop(request, outcome, None)
                return
            body = steps.body(request, outcome)
            if body.size > SMALL_BYTES_MAX:
                self._hold_answer(request, body)
            if body.wanted is not None:
                self._write_beside_loop(request, outcome, body)
                return
            response = steps.reply(request, outcome, body)
        except Exception as error:
            response = steps.fail(request, error)
        self._respond(response)

    def _hold_answer(self, request: DirectRequest, body: Body) -> None:
        """A large answer counts as unread from now on.

        Raises:
            PenstockError: QUEUE_FULL; there is no room for it.
        """
        request.release()
        request.share = HeldShare(self._steps.held, UNREAD)
        request.share.resize(body.size)

    def _write_beside_loop(
        self, request: DirectRequest, answer: InferenceAnswer, body: Body | None
    ) -> None:
        async def write() -> None:
            response: Reply | Response
            try:
                made = body
                if made is None:
                    made = await beside_loop(partial(request.steps.body, request, answer))
                    if self._direct is request:
                        self._hold_answer(request, made)
                if made.wanted is not None:
                    made = await compressed(made, made.wanted)
                if self._direct is not request:
                    return  # the client left meanwhile
                response = request.steps.reply(request, answer, made)
            except Exception as error:
                if self._direct is not request:
                    return
                response = request.steps.fail(request, error)
            self._respond(response)

        self._in_background(request, write())

    def _respond(self, response: Reply | Response) -> None:
        """Send the answer to the request that is served here, which ends it."""
        request, self._direct = self._direct, None
        assert request is not None
        request.call_id = None
        request.release()
        request.body, request.parsed = b"", None  # it stays the connection's cycle for a while
        request.steps.end()
        status, closes = STATUS_OK, not (request.keep_alive and request.whole)
        if isinstance(response, Reply):
            head, parts = response.head, response.parts
        else:
            status, parts = response.status_code, (bytes(response.body),)
            closes = closes or CLOSES in response.raw_headers
            kept = [header for header in response.raw_headers if header != CLOSES]
            head = b"".join([b"%b: %b\r\n" % header for header in kept])
        end = b"connection: close\r\n\r\n" if closes else b"\r\n"
        front = (STATUS_LINE[status], self._way.default_head(self.server_state), head, end)
        if len(parts) == 1 and len(parts[0]) <= JOINED_BYTES_MAX:
            self.transport.write(b"".join((*front, parts[0])))
        else:
            self.transport.writelines([*front, *parts])
        request.response_started = request.response_complete = True
        if request.span is not None:
            end_span(request.span, status)
        if self.flow.write_paused:
            self.unread.count()
        if not closes:
            self.on_response_complete()
        elif request.whole:
            self.transport.close()
            self.on_response_complete()
        else:
            self.linger()
