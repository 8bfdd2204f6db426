"""Clients' connections to a gateway, on which they can do everything that clients should not."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

ANSWER_S = 30.0
INFER = "/v2/models/m/infer"
PAUSE_S = 0.02
"""Between an answer and the next request: the machine is small, and processes start meanwhile."""


@dataclass(frozen=True)
class Answer:
    """What came back for a request; `closes`: it said that it is the last on its connection."""

    status: int
    closes: bool
    body: bytes

    @property
    def number(self) -> float:
        """The one number of an inference's answer."""
        (output,) = json.loads(self.body)["outputs"]
        return float(output["data"][0])


class Connection:
    """One client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, number: float, *, chunked: bool = False) -> None:
        """Ask the model for a number."""
        self.writer.write(infer_request(number, chunked=chunked))

    def get(self, path: str) -> None:
        """Send a GET."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    async def answer(self) -> Answer:
        """The next answer.

        Raises:
            OSError, EOFError: if the connection ended before it was whole.
        """
        async with asyncio.timeout(ANSWER_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            assert length is not None, head
            body = await self._reader.readexactly(int(length[1]))
        return Answer(int(head.split()[1]), "connection: close" in head, body)

    async def ask(self, number: float) -> Answer:
        """Ask the model for a number, and wait for the answer."""
        self.send(number)
        return await self.answer()

    async def ended(self) -> bool:
        """Wait until the server closes the connection; whether it said nothing before that."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    def leave(self) -> None:
        """Close it, whatever is still to come."""
        self.writer.close()


def infer_request(number: float, *, chunked: bool = False) -> bytes:
    """A whole request for one number; chunked ones take the gateway's ordinary way."""
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [1], "data": [number]}
    body = json.dumps({"inputs": [tensor]}).encode()
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n".encode()
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


async def connect(port: int) -> Connection:
    """A new connection to this machine."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port))


@dataclass
class Load:
    """Closed-loop clients that keep their connections, never retry, and check each answer.

    Attributes:
        port: of the gateways.
        number: asked of the model, which is to give it back.
        answered: answers that were right.
        failures: what went wrong, by request.
        slowest_s: of the right answers.
    """

    port: int
    number: float
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Clients send until the block ends; then nothing may have failed."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(stop))
            try:
                yield
            finally:
                stop.set()
        assert self.failures == []
        assert self.answered >= clients

    async def _client(self, stop: asyncio.Event) -> None:
        connection = await connect(self.port)
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = await connection.ask(self.number)
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(repr(error))
                return
            if answer.status != 200 or answer.number != self.number:
                self.failures.append(f"{answer.status} {answer.body[:200]!r}")
            else:
                self.answered += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if answer.closes:
                connection = await connect(self.port)
            await asyncio.sleep(PAUSE_S)
        connection.leave()
