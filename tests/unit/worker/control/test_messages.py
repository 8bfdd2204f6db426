"""What a replica counts is what its heartbeats carry."""

from __future__ import annotations

from dataclasses import asdict

from penstock.worker.control.messages import Heartbeat, decode_for_agent, encode_line
from penstock.worker.session.counters import Counters

MOMENTARY = {"type", "queued_rows", "executing_rows", "batch_ends_in_s"}


def test_a_heartbeat_carries_every_counter() -> None:
    """Two classes, since what counts is compiled, and what is checked as it is read is not."""
    assert set(Heartbeat.model_fields) - MOMENTARY == set(asdict(Counters()))
    counters = Counters(1, 2, 3, 4, 5, 6, 7, 8, 9, {"idle": 3}, {2: 4})
    heartbeat = decode_for_agent(encode_line(Heartbeat(**asdict(counters))))
    assert heartbeat.model_dump(exclude=MOMENTARY) == asdict(counters)
    assert Heartbeat().model_dump(exclude=MOMENTARY) == asdict(Counters())
