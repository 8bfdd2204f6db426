"""SIGTERM to a gateway process: everything accepted is answered, and it leaves in time."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import Heartbeat
from tests.fault.connections import ANSWER_S, Answer, Connection, infer_request
from tests.fault.gateway_process import GatewayProcess, gateway_process
from tests.support.data_plane import ReplicaChild

NAP_MS = 30.0
LONG_MS = 8000.0
PLUG_MS = 3500.0
"""A call that goes first and keeps the replica busy until all others have come."""

SMALL_BATCHES = ReplicaSettings(threads=1, max_batch_size=4)
CALLS = 128
WAIT_S = 1.5
QUIET_S = 0.5
OPEN = "penstock_gateway_open_calls"
LATE_S = 5.0
"""What a busy machine may add to a time before it is wrong."""


async def until_unready(gateway: GatewayProcess) -> None:
    """Wait until a load balancer would see that the gateway leaves."""
    async with asyncio.timeout(LATE_S):
        while (await gateway.get("/v2/health/ready")).status == 200:
            await asyncio.sleep(0.01)


async def until_refused(gateway: GatewayProcess) -> None:
    """Wait until nobody can connect any more."""
    async with asyncio.timeout(WAIT_S + LATE_S):
        while True:
            try:
                (await gateway.connect()).leave()
            except ConnectionRefusedError:
                return
            await asyncio.sleep(0.02)


async def test_all_that_was_accepted_is_answered(napping: Path) -> None:
    grace_s = 10.0
    settings = {"drain_grace_s": grace_s, "drain_quiet_s": QUIET_S, "drain_wait_s": WAIT_S}
    async with gateway_process(**settings) as gateway:
        await gateway.joined(napping, settings=SMALL_BATCHES)
        assert (await gateway.get("/v2/health/ready")).status == 200
        plug, idle = await gateway.connect(), await gateway.connections(8)
        clients = await gateway.connections(CALLS)
        plug.send(PLUG_MS)
        await gateway.metric_is(OPEN, 1)
        numbers = [NAP_MS + number / CALLS for number in range(CALLS)]
        for index, (client, number) in enumerate(zip(clients, numbers, strict=True)):
            client.send(number, chunked=index % 4 == 0)
        await gateway.metric_is(OPEN, CALLS + 1)
        gateway.ask_to_leave()
        began = time.monotonic()
        await until_unready(gateway)
        await asyncio.sleep(WAIT_S / 3)
        late = await gateway.connect()  # a load balancer has not noticed yet
        late.send(NAP_MS)
        in_order: list[Answer] = []

        async def answer(client: Connection, number: float) -> None:
            got = await client.answer()
            assert got.status == 200
            assert got.number == pytest.approx(number)
            in_order.append(got)

        pairs = [(plug, PLUG_MS), *zip(clients, numbers, strict=True), (late, NAP_MS)]
        await asyncio.gather(until_refused(gateway), *[answer(*pair) for pair in pairs])
        assert len(in_order) == CALLS + 2
        assert all(got.closes for got in in_order[-CALLS // 2 :])
        assert all([await client.ended() for client in [*clients, *idle]])
        assert await gateway.exit_code(grace_s) == 0, gateway.log
        assert time.monotonic() - began < grace_s


async def trickle(connection: Connection) -> None:
    """Announce a body, and send so little of it at a time that it never ends."""
    request = infer_request(1.0) + b" "
    head, _, _ = request.partition(b"\r\n\r\n")
    connection.writer.write(head + b"\r\n\r\n")
    while not connection.writer.is_closing():
        connection.writer.write(b" ")
        await asyncio.sleep(0.3)


async def deaf(gateway: GatewayProcess) -> Connection:
    """A client that asks for megabytes and reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
    writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 500)
    return Connection(reader, writer)


async def test_it_leaves_in_time_whatever_clients_do(napping: Path) -> None:
    grace_s = 3.0
    async with gateway_process(drain_grace_s=grace_s, drain_quiet_s=QUIET_S) as gateway:
        await gateway.joined(napping, settings=SMALL_BATCHES)
        trickler, half, patient = await gateway.connections(3)
        trickling = asyncio.create_task(trickle(trickler))
        half.writer.write(infer_request(1.0)[:20])
        patient.send(60_000.0)
        unread = await deaf(gateway)
        await gateway.metric_is(OPEN, 1)
        gateway.ask_to_leave()
        began = time.monotonic()
        assert await half.ended()
        assert time.monotonic() - began < grace_s, "it said nothing for longer than the quiet time"
        given_up = [await trickler.answer(), await patient.answer()]
        assert [(answer.status, answer.closes) for answer in given_up] == [(503, True)] * 2
        assert await gateway.exit_code(grace_s + LATE_S) == 0, gateway.log
        assert time.monotonic() - began < grace_s + LATE_S / 2
        trickling.cancel()
        unread.leave()


async def until_executing(replica: ReplicaChild, rows: int) -> None:
    """Wait until a batch of so many rows runs: what comes later cannot share it."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            beat = await asyncio.to_thread(replica.hear, Heartbeat)
            if isinstance(beat, Heartbeat) and beat.executing_rows == rows:
                return


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
async def test_a_second_signal_hurries_it(napping: Path, wait_s: float) -> None:
    async with gateway_process(drain_wait_s=wait_s, drain_grace_s=60.0) as gateway:
        (replica,) = await gateway.joined(napping, settings=SMALL_BATCHES)
        executing, *queued = await gateway.connections(9)
        executing.send(LONG_MS)
        await until_executing(replica, 1)
        for index, client in enumerate(queued):
            client.send(LONG_MS, chunked=index % 2 == 0)
        await gateway.metric_is(OPEN, 9)
        gateway.ask_to_leave()
        await asyncio.sleep(0.3)
        assert gateway.process.poll() is None
        gateway.process.send_signal(signal.SIGINT)
        answers = await asyncio.gather(*[client.answer() for client in [executing, *queued]])
        assert [(answer.status, answer.closes) for answer in answers] == [(503, True)] * 9
        assert await gateway.exit_code(LATE_S) == 0, gateway.log
        replica.forget()
        beat = await asyncio.to_thread(replica.hear, Heartbeat)
        assert isinstance(beat, Heartbeat)
        assert (beat.queued_rows, beat.executing_rows) == (0, 1), "nobody waits for the queue"


async def test_a_state_store_that_never_answers_does_not_hold_it_up() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with gateway_process(
        redis_url=f"redis://127.0.0.1:{port}/0", drain_grace_s=2.0, drain_quiet_s=0.1
    ) as gateway:
        await gateway.joined(Path(), count=0)
        gateway.ask_to_leave()
        assert await gateway.exit_code(2.0 + LATE_S) == 0, gateway.log
    silent.close()
