"""A client's connection that serves inference without a task: the short way of the hot route.

uvicorn's parser tells what comes on a connection. A `POST .../infer` that is plain HTTP/1.1 (one
`Content-Length`, nothing compressed, nothing pipelined, nothing to be asked or refused by its
headers) is taken from the parser's callbacks to the service, and answered from the service's
callback: no task, no ASGI messages, one write. Everything else takes the ordinary way, through
FastAPI to `gateway.http.call_route`. Both ways go by the same steps (`CallSteps`), and
tests/unit/gateway/http/test_both_ways.py holds them to the same answers.

To uvicorn, a request that is served here is the connection's *cycle*, as any other: what it does
when clients pipeline, leave, or are told to go stays its own.

Previous stop of a request: the client. Next: `gateway.http.call_route` for the steps, then
`gateway.service`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from fastapi import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.calls import InferenceAnswer
from gateway.graceful_server import GracefulConnection
from gateway.http.call_route import Body, CallSteps, Exchange, InferenceReply, compressed
from gateway.http.oip_codec import ParsedInfer
from gateway.http.request_body import BodyTimeoutError, client_gone
from gateway.http.traced_app import begin_span, end_span, with_context
from gateway.service import Outcome
from shared.errors import PenstockError
from shared.tensors import Buffer
from shared.tracing import Span, Tracer

TARGETS_MAX = 4096
"""URLs remembered, good and bad: clients send the same few again and again."""

LENGTH_DIGITS_MAX = 18

_INFER = re.compile(rb"/v2/models/([^/?%#]+)(?:/versions/([^/?%#]+))?/infer")

_ORDINARY = frozenset({b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})
"""Headers that take some more doing."""

RawHeaderList: TypeAlias = list[tuple[bytes, bytes]]


class _Unheard:
    """What uvicorn sets when something happens to a cycle; here, callbacks tell it."""

    def set(self) -> None: ...


class DirectRequest:
    """One request that is served here; the attributes without comment are uvicorn's of a cycle."""

    __slots__ = (
        "body",
        "call_id",  # of the service, once it runs
        "disconnected",
        "exchange",
        "keep_alive",
        "length",  # of the body, in bytes
        "message_event",
        "patience",  # ends a body that trickles in
        "response_complete",
        "response_started",
        "span",
        "whole",  # the body has come
    )

    def __init__(self, exchange: Exchange[ParsedInfer], length: int, keep_alive: bool) -> None:
        self.exchange = exchange
        self.length = length
        self.keep_alive = keep_alive
        self.body: Buffer = b""
        self.whole = False
        self.call_id: int | None = None
        self.patience: asyncio.TimerHandle | None = None
        self.span: Span | None = None
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self.message_event = _UNHEARD


_UNHEARD = _Unheard()


class DirectConnection(GracefulConnection):
    """See the module's docstring.

    Args:
        steps: what is done with an inference request.
        tracer: records requests that are sampled; None: nothing is.
    """

    cycle: Any  # a `DirectRequest`, or one of uvicorn's own

    def __init__(
        self,
        *arguments: Any,
        steps: CallSteps[ParsedInfer],
        tracer: Tracer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._steps = steps
        self._tracer = tracer
        self._direct: DirectRequest | None = None

    # What the parser tells

    def data_received(self, data: bytes) -> None:
        """The client sent something."""
        super().data_received(data)
        request = self._direct
        if request is not None and not request.whole and request.patience is None:
            request.patience = self.loop.call_later(
                self._steps.settings.body_timeout_s, self._body_timeout
            )

    def on_message_begin(self) -> None:
        """A request begins; which way it takes is decided when its headers are there."""
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way."""
        target = _target_of(self.url)
        request = self._begin(*target) if target is not None and self._is_free() else None
        if request is not None:
            self.cycle = request
            self._direct = request
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
            super().on_body(body)
        elif len(body) == request.length:
            request.body = body  # the usual case: no copy
        elif isinstance(request.body, bytearray):
            request.body += body
        else:
            request.body = bytearray(body)

    def on_message_complete(self) -> None:
        """A request is all there."""
        request = self._direct
        if request is None or self.cycle is not request:
            super().on_message_complete()
            return
        request.whole = True
        if request.patience is not None:
            request.patience.cancel()
        steps = self._steps
        try:
            call = steps.call(request.exchange, request.body)
            request.call_id = steps.service.submit(call, self._answered)
        except Exception as error:
            self._respond(steps.fail(request.exchange, error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: nobody waits for the answer any more."""
        request, self._direct = self._direct, None
        super().connection_lost(exc)
        if request is None:
            return
        if request.patience is not None:
            request.patience.cancel()
        if request.call_id is not None:
            self._steps.service.cancel(request.call_id)
        self._steps.fail(request.exchange, client_gone())
        self._steps.end()
        end_span(request.span, 0)

    # The way of a request that is served here

    def _is_free(self) -> bool:
        """Whether all that came before has been answered, and the client reads its answers."""
        before = self.cycle
        return (before is None or before.response_complete) and not self.flow.write_paused

    def _begin(self, model: str, version: str | None) -> DirectRequest | None:
        """A request that can be served here, begun; None for one that cannot."""
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        headers: Mapping[bytes, bytes] = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if (
            len(headers) != len(self.headers)
            or not _ORDINARY.isdisjoint(headers)
            or not length.isdigit()
            or len(length) > LENGTH_DIGITS_MAX
            or int(length) > self._steps.settings.max_body_bytes
            or self.root_path
        ):
            return None
        try:
            self._steps.check(headers)
        except PenstockError:
            return None
        span = self._span(headers) if self._tracer is not None else None
        if span is not None:
            headers = dict(with_context(headers.items(), span.context))
        exchange = self._steps.begin(model, version, headers)
        keep_alive = parser.should_keep_alive() and not self.draining
        request = DirectRequest(exchange, int(length), keep_alive)
        request.span = span
        return request

    def _span(self, headers: Mapping[bytes, bytes]) -> Span | None:
        assert self._tracer is not None
        return begin_span(self._tracer, "POST", self.url.decode("ascii"), headers)

    def _body_timeout(self) -> None:
        request = self._direct
        if request is not None and not request.whole:
            error = BodyTimeoutError(self._steps.settings.body_timeout_s)
            self._respond(self._steps.fail(request.exchange, error))

    def _answered(self, outcome: Outcome) -> None:
        """The service is done with the call; it calls this at most once for each."""
        assert self._direct is not None
        steps, exchange = self._steps, self._direct.exchange
        response: Response
        if isinstance(outcome, PenstockError):
            response = steps.fail(exchange, outcome)
        else:
            try:
                body = steps.body(exchange, outcome)
                if body.wanted is not None:
                    self._compress_first(self._direct, outcome, body)
                    return
                response = steps.reply(exchange, outcome, body)
            except Exception as error:
                response = steps.fail(exchange, error)
        self._respond(response)

    def _compress_first(self, request: DirectRequest, answer: InferenceAnswer, body: Body) -> None:
        async def compress() -> None:
            assert body.wanted is not None
            coded = await compressed(body, body.wanted)
            if self._direct is request:
                self._respond(self._steps.reply(request.exchange, answer, coded))

        task = self.loop.create_task(compress())
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _respond(self, response: Response) -> None:
        """Send the answer to the request that is served here, which ends it."""
        request, self._direct = self._direct, None
        assert request is not None
        request.call_id = None
        self._steps.end()
        head, closes = _head(response, self.server_state.default_headers, request.keep_alive)
        if isinstance(response, InferenceReply):
            self._write(head, response.parts)
        else:
            self._write(head, (bytes(response.body),))
        request.response_started = request.response_complete = True
        end_span(request.span, response.status_code)
        if closes:
            self.transport.close()
        self.on_response_complete()

    def _write(self, head: list[bytes], parts: tuple[Buffer, ...]) -> None:
        if len(parts) == 1:
            self.transport.write(b"".join([*head, parts[0]]))
        else:
            self.transport.writelines([*head, *parts])


@lru_cache(TARGETS_MAX)
def _target_of(url: bytes) -> tuple[str, str | None] | None:
    """The model and version that a URL asks to infer on; None if it is any other URL."""
    match = _INFER.fullmatch(url)
    if match is None or not url.isascii():
        return None
    model, version = match.groups()
    return model.decode("ascii"), None if version is None else version.decode("ascii")


def _head(
    response: Response, defaults: RawHeaderList, keep_alive: bool
) -> tuple[list[bytes], bool]:
    """Status line and headers, in pieces, and whether they say that the connection ends."""
    head = [STATUS_LINE[response.status_code]]
    closes = not keep_alive
    for name, value in defaults:
        head += (name, b": ", value, b"\r\n")
    for name, value in response.raw_headers:
        head += (name, b": ", value, b"\r\n")
        if name == b"connection":
            closes, keep_alive = True, True
    if not keep_alive:
        head.append(b"connection: close\r\n")
    head.append(b"\r\n")
    return head, closes
