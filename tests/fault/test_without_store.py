"""A gateway without its state store: it says what it waits for, and goes on by itself."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from structlog.testing import capture_logs

from penstock.gateway.routing.feed import RoutingFeed
from penstock.shared.contracts.deployment import GatewayReport
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server
from tests.e2e.system import penstock
from tests.fault.gateway_process import GatewayProcess, gateway_process
from tests.support.models import affine

PATIENCE_S = 30.0


async def health(gateway: GatewayProcess) -> tuple[int, str]:
    answer = await gateway.get("/v2/health/ready")
    body = json.loads(answer.body)
    assert body["ready"] is (answer.status == 200)
    return answer.status, body.get("reason", "")


async def test_a_gateway_that_starts_without_a_store_says_so_until_it_is_there(
    tmp_path: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder))
        url = server.url.replace("unix://", "unix://someone:s3cret@")
        async with gateway_process(redis_url=url, state_poll_s=0.05) as gateway:
            await gateway.joined(tmp_path, 0)
            async with asyncio.timeout(PATIENCE_S):
                while "waiting for it" not in gateway.log:
                    await asyncio.sleep(0.02)
            status, reason = await health(gateway)
            assert (status, "the state store does not answer" in reason) == (400, True)
            assert f"{folder}/redis.sock" in gateway.log
            assert "s3cret" not in gateway.log
            assert "redis.sock" not in reason  # whoever may ask for health is told no addresses
            shown = penstock("status", "--url", f"http://127.0.0.1:{gateway.port}")
            assert f"not ready: {reason}" in shown.stdout
            waited = penstock(
                *("wait", "m", "--url", f"http://127.0.0.1:{gateway.port}", "--timeout", "0")
            )
            assert waited.returncode == 3
            assert f"the gateway says: {reason}" in waited.stdout


async def test_a_store_that_comes_is_told_and_then_the_reason_is_another_one(
    tmp_path: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder))
        async with gateway_process(redis_url=server.url, state_poll_s=0.05) as gateway:
            await gateway.joined(tmp_path, 0)
            await asyncio.to_thread(server.start)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while "state store reachable again" not in gateway.log:
                        await asyncio.sleep(0.02)
                assert "no registry_sync has deployed" in (await health(gateway))[1]
                assert gateway.log.count("state store unreachable") == 1
            finally:
                server.kill()


async def test_a_gateway_that_serves_without_a_store_is_ready_and_a_wait_for_it_ends(
    tmp_path: Path,
) -> None:
    async with gateway_process() as gateway:
        await gateway.joined(affine(tmp_path / "m", 2.0))
        assert await health(gateway) == (200, "")
        done = penstock(
            *("wait", "m", "--url", f"http://127.0.0.1:{gateway.port}", "--timeout", "30")
        )
        assert (done.returncode, done.stdout) == (0, "m: version 1 is serving\n")
        gateway.ask_to_leave()


async def test_a_gateway_that_drains_says_so(tmp_path: Path) -> None:
    async with gateway_process(drain_wait_s=30.0) as gateway:
        await gateway.joined(affine(tmp_path / "m", 2.0))
        gateway.ask_to_leave()
        async with asyncio.timeout(PATIENCE_S):
            while (await health(gateway))[0] == 200:
                await asyncio.sleep(0.02)
        assert (await health(gateway))[1] == "this gateway drains: it is about to end"


class Informed:
    """A gateway's service, as far as the feed goes."""

    generation = 0
    knows_routes = False

    def __init__(self) -> None:
        self.answers: list[bool] = []

    def ready_counts(self) -> dict[str, int]:
        return {}

    def take_routing(self, table: RoutingTable) -> None:
        pass

    def store_answered(self, answers: bool) -> None:
        self.answers.append(answers)


async def test_an_outage_is_told_at_once_again_and_when_it_is_over() -> None:
    report = GatewayReport(
        gateway="g", incarnation="g-1", node="n", pid=1, endpoint="", url="", metrics_port=0
    )
    with tempfile.TemporaryDirectory(prefix="pst-") as folder, capture_logs() as logs:
        server = Server(Path(folder))
        store = RedisStateStore(server.url, Keys("feed"))
        feed = RoutingFeed(store, report, 0.01, 1.0, 6.0, told_again_s=0.1)
        service = Informed()
        running = asyncio.create_task(feed.run(service, lambda: "ipc:///nowhere"))

        def told(event: str) -> int:
            return sum(event in each["event"] for each in logs)

        async with asyncio.timeout(PATIENCE_S):
            while told("unreachable") < 3:
                await asyncio.sleep(0.01)
            assert len(service.answers) > told("unreachable")  # most looks are told of by no line
            await asyncio.to_thread(server.start)
            while not told("reachable again"):
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait({running})
        await store.close()
        server.kill()
    assert told("reachable again") == 1
    assert service.answers[0] is False
    assert service.answers[-1] is True
