"""The seam to one child process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.agent_end import ProcessSpawner, replica_environment
from penstock.worker.control.messages import (
    DrainNow,
    GatewayAddress,
    Gateways,
    Heartbeat,
    JobsStart,
    Start,
    ToAgent,
    decode_for_replica,
    encode_line,
)
from tests.support.waiting import eventually

START = Start(
    key="k",
    replica="r",
    worker="w",
    model="m",
    version="1",
    revision="x",
    model_path="/model",
    settings=ReplicaSettings(threads=3),
    device="cpu",
)

PRELUDE = """
import os, pathlib, socket, sys, time
control = socket.socket(fileno=int(sys.argv[-1]))
flag, out = pathlib.Path(os.environ["FLAG"]), pathlib.Path(os.environ["OUT"])
"""


class Bench:
    """A child that runs a program, and what it said."""

    def __init__(self, folder: Path, program: str, start: Start = START) -> None:
        self.flag, self.out = folder / "flag", folder / "out"
        self.said: list[ToAgent] = []
        self.ends: list[str] = []
        environment = {"FLAG": str(self.flag), "OUT": str(self.out)}
        spawner = ProcessSpawner((sys.executable, "-c", PRELUDE + program), environment)
        self.handle = spawner.spawn(start, self.said.append, self.ends.append)

    async def end(self) -> str:
        await eventually(lambda: bool(self.ends))
        assert len(self.ends) == 1
        return self.ends[0]


def gateways(count: int) -> Gateways:
    """The newest of many lists has the largest `count`."""
    padding = "x" * 10_000
    address = GatewayAddress(gateway=str(count), endpoint=f"ipc:///{padding}")
    return Gateways(gateways=(address,))


async def test_only_the_newest_of_each_kind_waits(tmp_path: Path) -> None:
    program = """
while not flag.exists(): time.sleep(0.01)
data = b""
while not data.endswith(b'{"type":"drain","grace_s":null}\\n'):
    data += control.recv(1 << 20) or sys.exit("the agent is gone")
out.write_bytes(data)
"""
    bench = Bench(tmp_path, program)
    for count in range(2_000):  # 20 MB, far more than the socket holds
        bench.handle.send(gateways(count))
    bench.handle.send(DrainNow())
    bench.flag.touch()
    assert await bench.end() == "exited with code 0"
    messages = [decode_for_replica(line) for line in bench.out.read_bytes().splitlines()]
    assert messages[0] == START
    assert messages[-2] == gateways(1_999)
    assert messages[-1] == DrainNow()
    assert len(messages) < 200
    bench.handle.send(DrainNow())  # nobody is there any more: nothing happens
    bench.handle.terminate()
    bench.handle.kill()


async def test_last_words_come_before_the_end(tmp_path: Path) -> None:
    line = encode_line(Heartbeat(requests=5))
    bench = Bench(tmp_path, f"control.sendall({line!r} * 1000); sys.exit(7)")
    assert await bench.end() == "exited with code 7"
    assert bench.said == [Heartbeat(requests=5)] * 1000


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("b'{}\\n'", "sent a line that is no message"),
        ("b'\\xff\\n'", "sent a line that is no message"),
        ("b'x' * (1 << 23)", "sent a line that is too long"),
    ],
)
async def test_who_breaks_the_protocol_is_killed(tmp_path: Path, said: str, fault: str) -> None:
    bench = Bench(tmp_path, f"control.sendall({said}); time.sleep(600)")
    assert await bench.end() == f"{fault}, ended by SIGKILL"


async def test_terminate(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "flag.touch(); time.sleep(600)")
    await eventually(bench.flag.exists)
    bench.handle.terminate()
    assert await bench.end() == "ended by SIGTERM"


async def test_a_program_that_does_not_exist() -> None:
    spawner = ProcessSpawner(("/no/such/program",))
    with pytest.raises(FileNotFoundError):
        spawner.spawn(START, lambda _: None, lambda _: None)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    environment = replica_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert replica_environment(None)["OMP_NUM_THREADS"] == "64"


@pytest.mark.parametrize(("held_max", "begun"), [(4096, {"j" * 32}), (4097, None)])
async def test_what_a_replica_began_is_known_when_it_is_gone(
    tmp_path: Path, held_max: int, begun: set[str] | None
) -> None:
    program = """
import json
data = b""
while not data.endswith(b"\\n"): data += control.recv(1 << 20)
fd = json.loads(data)["jobs"]["begun_fd"]
if fd is not None: os.pwrite(fd, b"j" * 32, 0)
os.kill(os.getpid(), 9)
"""
    settings = ReplicaSettings(threads=3, job_concurrency=held_max)
    jobs = JobsStart(redis_url="redis://nowhere", namespace="n")
    start = START.model_copy(update={"settings": settings, "jobs": jobs})
    bench = Bench(tmp_path, program, start)
    assert await bench.end() == "ended by SIGKILL"
    assert bench.handle.begun_jobs == begun
