"""What the carrier does first, and what it drops."""

from __future__ import annotations

import queue
import threading

from penstock.shared.wire.tensors import Buffer
from penstock.worker.job_port.blob_carrier import (
    WAITING_BYTES_MAX,
    BlobCarrier,
    Carried,
    OutputStored,
    Stored,
)


class SlowBlobs:
    """Keeps nothing until `open`."""

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), threading.Event()

    def put(self, job_id: str, data: Buffer) -> str:
        self.asked.set()
        self.open.wait(10)
        return job_id

    def get(self, name: str) -> bytes:
        return b""


def test_results_come_first_and_of_too_many_outputs_the_oldest_are_dropped() -> None:
    blobs, done = SlowBlobs(), queue.SimpleQueue[Carried]()
    carrier = BlobCarrier(blobs, done.put)
    carrier.start()
    part = bytes(WAITING_BYTES_MAX // 4)
    carrier.store_output(1, "j0", "t", part)
    assert blobs.asked.wait(5)
    for each in range(1, 7):
        carrier.store_output(1, f"j{each}", "t", part)
    carrier.store(2, "result", b"r")
    assert [done.get(timeout=5) for _ in range(2)] == [OutputStored(1, None)] * 2
    blobs.open.set()
    carried = [done.get(timeout=5) for _ in range(6)]
    names = [
        each.name if isinstance(each, Stored) else each.content and each.content.blob
        for each in carried
        if isinstance(each, Stored | OutputStored)
    ]
    assert names == ["j0", "result", "j3", "j4", "j5", "j6"]
