"""Whether a peer works: answers are compared with ONNX Runtime, and nothing may stay behind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from load_tests.models.reference import Reference
from load_tests.models.small import make_model, sample_rows
from load_tests.peers.peer import Peer
from load_tests.server import Model, ServerError
from load_tests.servers.processes import alive
from load_tests.servers.verification import verify

MODELS = ("tiny", "mlp")
SAMPLES = 20
ROWS_OF_A_LARGE_REQUEST = 3


@dataclass(frozen=True)
class CheckedPeer:
    """What was found of a peer that works.

    Attributes:
        processes: how many it had.
        answers: how many were right.
    """

    version: str
    start_s: float
    stop_s: float
    processes: int
    answers: int


def check_peer(peer: Peer, folder: Path) -> list[CheckedPeer]:
    """Start a peer with each model, ask it in every encoding, and stop it.

    Raises:
        ServerError: if it does not start, answers wrongly or leaves a process behind.
    """
    peer.venv.install()
    return [check_with(peer, make_model(folder / "models", name), folder) for name in MODELS]


def check_with(peer: Peer, model: Model, folder: Path) -> CheckedPeer:
    """As `check_peer`, with one model."""
    work_dir = folder / f"{peer.name}-{model.name}"
    work_dir.mkdir()
    samples = sample_rows(model, SAMPLES)
    samples.append(np.concatenate(samples[:ROWS_OF_A_LARGE_REQUEST]))
    begin = time.monotonic()
    running = peer.start(model, work_dir)
    start_s = time.monotonic() - begin
    try:
        reference = Reference(model.path)
        answers = sum(verify(running, each, samples, reference) for each in peer.encodings)
        pids = [pid for each in running.pids().values() for pid in each]
        version = running.version
    finally:
        begin = time.monotonic()
        running.stop()  # raises if one cannot be ended
    stop_s = time.monotonic() - begin
    if left := [pid for pid in pids if alive(pid)]:
        raise ServerError(f"{peer.name} left processes behind: {left}")
    return CheckedPeer(version, start_s, stop_s, len(pids), answers)
