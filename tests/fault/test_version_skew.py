"""A replica of a release that speaks another protocol: it is left alone, and others serve."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgpack
import zmq
import zmq.asyncio

from penstock.shared.wire.codec import VERSION, encode
from penstock.shared.wire.messages import Envelope, Hello
from tests.fault.gateway_process import gateway_process
from tests.support.models import affine

HELLO = Hello("r-later", "w", "m", "1", "m/1", b"{}", b"")


async def test_a_replica_of_another_protocol_is_left_alone_and_others_serve(
    tmp_path: Path,
) -> None:
    async with gateway_process() as gateway:
        await gateway.joined(tmp_path, 0)
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as later:
            later.linger = 0
            later.setsockopt(zmq.IDENTITY, b"r-later")
            later.setsockopt(zmq.PROBE_ROUTER, 1)
            later.connect(gateway.endpoint)
            probe = await asyncio.wait_for(later.recv_multipart(), 30)
            version, incarnation, _ = msgpack.unpackb(probe[0])
            assert version == VERSION
            header, *rest = encode(Envelope(incarnation, (HELLO,)))
            _, *members = msgpack.unpackb(bytes(header))
            await later.send_multipart([msgpack.packb([VERSION + 1, *members]), *rest])
            async with asyncio.timeout(30):
                while f"protocol version {VERSION + 1}, expected {VERSION}" not in gateway.log:
                    await asyncio.sleep(0.02)
            assert (await gateway.get("/v2/models/m")).status == 404  # what it told is not taken
            await gateway.joined(affine(tmp_path / "m", 2.0))
            answer = await gateway.get("/v2/models/m")
            assert json.loads(answer.body)["versions"] == ["1"]
