"""Which endpoints a gateway binds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.transport import EndpointError, Transport, check_endpoint
from shared.messages import Message, Request


class Nobody:
    """Is told and does nothing."""

    def message_received(self, replica_id: str, message: Message) -> None: ...

    def knows(self, replica_id: str) -> bool:
        return False

    def messages_done(self) -> None: ...

    def not_sent(self, replica_id: str, request: Request) -> None: ...

    def replica_lost(self, replica_id: str) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp://127.0.0.1:5555", "tcp is open to everyone"),
        ("ipc://" + "/long" * 30, "at most 107 bytes, this one has 150"),
        ("udp://127.0.0.1:1", "expected ipc://PATH or tcp://HOST:PORT"),
    ],
)
def test_endpoints_that_cannot_work_or_are_open_to_anyone_are_refused(
    endpoint: str, words: str
) -> None:
    with pytest.raises(EndpointError, match=words):
        check_endpoint(endpoint, insecure_tcp=False)


def test_tcp_is_allowed_where_the_network_is_trusted() -> None:
    check_endpoint("tcp://127.0.0.1:5555", insecure_tcp=True)


async def test_a_folder_that_everyone_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EndpointError, match="writable by everyone"):
        Transport(f"ipc://{folder}/g.ipc", "g", Nobody()).bind()


async def test_any_port_is_told_once_bound() -> None:
    transport = Transport("tcp://127.0.0.1:*", "g", Nobody())
    transport.bind()
    assert transport.endpoint.startswith("tcp://127.0.0.1:")
    await asyncio.sleep(0)
    transport.close(0)
