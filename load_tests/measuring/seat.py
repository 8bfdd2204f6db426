"""A server's place in a comparison: started once, verified, and kept or ended between rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from enum import StrEnum

from load_tests.measuring.measure import Target, closed_point, target
from load_tests.measuring.session import WARM_UP_S, Session
from load_tests.models.reference import Reference
from load_tests.server import Encoding, Model, Rows, Running, Server, ServerError
from load_tests.servers.processes import CpuMeter, started_at
from load_tests.servers.verification import verify

IDLE_CORES_MAX = 0.1
"""A server that takes more than this of a processor while nobody asks would disturb the other."""

IDLE_LOOK_S = 1.0
MEMORY_FREE_MIN = 2 * 2**30
"""With less than this left, a server that waits for its turn is ended rather than kept."""

WARM_UP_CONNECTIONS = 64


class Waiting(StrEnum):
    """What becomes of a server while the other one is measured."""

    AUTO = "auto"
    KEEP = "keep"
    END = "end"


class Seat:
    """One server and one model.

    Attributes:
        start_s: from the start to the first answer, the first time.
    """

    def __init__(self, session: Session, server: Server, model: Model, waiting: Waiting) -> None:
        self._session = session
        self._server = server
        self._model = model
        self._waiting = waiting
        self._reference = Reference(model.path)
        self._samples: Sequence[Rows] = session.samples(model)
        self._running: Running | None = None
        self.start_s = 0.0
        self.version = ""

    @property
    def ends_between(self) -> bool:
        """Whether it is ended after each round."""
        return self._waiting is Waiting.END

    def open(self, encodings: Sequence[Encoding]) -> None:
        """Start it, verify its answers, and find out if it may stay beside others.

        Raises:
            ServerError: if it does not start, or answers wrongly.
        """
        running = self._start()
        # Not from our call: a peer that is started for the first time is installed before.
        pids = [pid for each in running.pids().values() for pid in each]
        self.start_s = time.time() - min(filter(None, map(started_at, pids)))
        self.version = running.version
        self.verify(encodings)
        if self._waiting is Waiting.AUTO:
            self._waiting = Waiting.END if self._disturbs(running) else Waiting.KEEP
        self.rest()

    def verify(self, encodings: Sequence[Encoding]) -> None:
        """Compare its answers with the right ones, and warm it up.

        Raises:
            ServerError: if one is wrong.
        """
        running = self._start()
        for encoding in encodings:
            try:
                verify(running, encoding, self._samples, self._reference)
            except ServerError as error:
                raise ServerError(f"{encoding.value}: {error}") from error
            closed_point(self._target(running, encoding), WARM_UP_CONNECTIONS, WARM_UP_S)

    def take(self, encoding: Encoding) -> Target:
        """Its turn: something to load."""
        fresh = self._running is None
        at = self._target(self._start(), encoding)
        if fresh:
            closed_point(at, WARM_UP_CONNECTIONS, WARM_UP_S)
        return at

    def rest(self) -> None:
        """The other one's turn."""
        if self.ends_between:
            self.close()

    def close(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _start(self) -> Running:
        if self._running is None:
            folder = self._session.new_folder(self._server.name)
            self._running = self._server.start(self._model, folder)
        return self._running

    def _target(self, running: Running, encoding: Encoding) -> Target:
        return target(self._server.name, running, self._model, encoding, self._samples)

    def _disturbs(self, running: Running) -> bool:
        meter = CpuMeter(running.pids)
        time.sleep(IDLE_LOOK_S)
        idle_cores = sum(meter.stop().roles_s.values()) / IDLE_LOOK_S
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        if idle_cores > IDLE_CORES_MAX:
            name = self._server.name
            self._session.say(f"  {name} takes {idle_cores:.2f} cores idle: ended between rounds")
        return idle_cores > IDLE_CORES_MAX or free < MEMORY_FREE_MIN
