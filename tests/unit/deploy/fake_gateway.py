"""A gateway's jobs for tests of commands: a real HTTP server with scripted answers."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

JOB = "0" * 31 + "1"


def job(state: str, **more: Any) -> dict[str, Any]:
    """A job's document as a gateway has it."""
    return {
        "id": JOB,
        "model": "mlp",
        "version": "2",
        "pinned": False,
        "state": state,
        "priority": 5,
        "attempts": 1,
        "max_attempts": 3,
        "created_at": "2026-01-02T03:04:05.678Z",
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "progress": None,
        "error": None,
        "result_bytes": None,
        "result_expires_at": None,
        "dead": False,
        "place": None,
        "partial": None,
        **more,
    }


def event(kind: str, event_id: str = "", **data: Any) -> bytes:
    """An event as a gateway sends it."""
    front = f"id: {event_id}\n" if event_id else ""
    return f"{front}event: {kind}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


class FakeGateway:
    """Answers requests by a script.

    Attributes:
        answers: by method and path the answers, (status, body); the last one stays.
        asked: (method, path with its query, headers, body) in order.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def will(self, what: str, *answers: tuple[int, Any]) -> None:
        """Answer `METHOD /path` so; a body that is no bytes is sent as JSON."""
        for status, body in answers:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            self.answers[what].append((status, data))

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        """The next answer to a request."""
        script = self.answers.get(f"{method} {target.partition('?')[0]}")
        if not script:
            return 404, orjson.dumps({"error": f"nothing is scripted for {method} {target}"})
        return script.pop(0) if len(script) > 1 else script[0]

    @contextmanager
    def serving(self) -> Iterator[FakeGateway]:
        """Serve on a free port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                gateway.asked.append((self.command, self.path, headers, body))
                status, answer = gateway.answer(self.command, self.path)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = respond  # noqa: N815 (their names are given)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
