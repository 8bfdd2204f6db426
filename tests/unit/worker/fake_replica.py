"""A replica without a model, for tests of the agent: its model's name says how it behaves.

`refuses`: cannot be loaded. `dies`: crashes while loading. `babbles`: breaks the protocol once
ready. `deaf`: ignores SIGTERM and drains. `spawns`: starts a child of its own. `detaches`: starts
one in a session of its own, and forgets it. `loads`: never becomes ready. `lowers`: its first
replica finds out that it must not be batched. `unlucky`: its trial shows nothing, by chance, and
`starved` is lowered by chance.
Any other: serves. All that it hears is written to `$FAKE_REPLICA_LOG/<replica>`.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.findings import Finding
from penstock.shared.process.lifecycle import adopt_orphans, die_with_parent
from penstock.worker.control.messages import (
    Drained,
    DrainNow,
    Found,
    Heartbeat,
    LoadFailed,
    Ready,
    Start,
    ToAgent,
    ToReplica,
    decode_for_replica,
    encode_line,
)

INTERFACE = ModelInterface(inputs=(), outputs=(), max_batch_size=1, platform="fake")
FINDING = Finding(interface=INTERFACE, merges=True)
LOWERED = Finding(interface=INTERFACE, reason="not batched: the fake says so")
CHANCE = LOWERED.model_copy(update={"chance": True, "reason": "not batched: by chance"})


class FakeReplica:
    """One conversation with the agent."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._buffer = b""
        self._requests = 0

    def run(self) -> None:
        start = self._receive(None)[0]
        assert isinstance(start, Start)
        log = self._log = Path(os.environ["FAKE_REPLICA_LOG"]) / start.replica
        self._note(log, f"pid {os.getpid()}")
        self._note(log, f"threads {os.environ['OMP_NUM_THREADS']}")
        self._note(log, start.model_dump_json())
        self._load(start)
        while True:
            for message in self._receive(start.heartbeat_interval_s):
                self._note(log, message.model_dump_json())
                if isinstance(message, DrainNow) and start.model != "deaf":
                    self._say(Drained())
                    sys.exit(0)
            self._requests += 1
            self._say(Heartbeat(requests=self._requests, dispatched={"idle": self._requests}))

    def _load(self, start: Start) -> None:
        model = start.model
        if model == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if model == "refuses":
            self._say(LoadFailed(message="no signature", invalid=True))
            sys.exit(3)
        if model == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if model == "spawns":
            subprocess.Popen(["sleep", "600"])
        if model == "detaches":  # a daemon's way: the one that starts it ends at once
            daemon = subprocess.run(
                ["setsid", "sh", "-c", "sleep 600 >/dev/null & echo $!"],
                stdout=subprocess.PIPE,
                check=True,
            )
            self._note(self._log, f"daemon {daemon.stdout.decode().strip()}")
        finding = start.finding or (CHANCE if model == "unlucky" else FINDING)
        if model != "loads":
            self._say(Ready(provider="FakeProvider", finding=finding, fresh=start.finding is None))
        if model == "lowers" and start.key.endswith("/0"):
            self._say(Found(finding=LOWERED))
        if model == "starved":
            self._say(Found(finding=CHANCE))
        if model == "babbles":
            self._control.sendall(b"what?\n")

    def _receive(self, timeout_s: float | None) -> list[ToReplica]:
        readable, _, _ = select.select([self._control], [], [], timeout_s)
        if not readable:
            return []
        received = self._control.recv(1 << 20)
        if not received:
            os._exit(0)
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        return [decode_for_replica(line) for line in lines]

    def _say(self, message: ToAgent) -> None:
        self._control.sendall(encode_line(message))

    @staticmethod
    def _note(log: Path, line: str) -> None:
        with log.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    die_with_parent()
    adopt_orphans()
    FakeReplica(socket.socket(fileno=parser.parse_args().control_fd)).run()
