"""`penstock up`: a whole system on one machine, as child processes in the foreground.

The story: lock the data directory, check the ports, start the guardian, then the store, MLflow,
gateways, workers and registry_sync, each awaited until it is ready; keep them running; at the end
drain them in the order in which work flows, so that nothing that was taken in is lost.

The next stop is `launcher` for how children are looked after, `system_plan` for what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import setproctitle

from penstock.deploy.local.cli.curl_examples import describe_system
from penstock.deploy.local.cli.extras import check_extras
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system import valkey
from penstock.deploy.local.system.data_dir import PRIVATE_UMASK, DataDir, lock_data_dir
from penstock.deploy.local.system.metrics_sum import MetricsServer
from penstock.deploy.local.system.ports import check_free, listen, port_of, url_of
from penstock.deploy.local.system.runtime_dir import RuntimeDir
from penstock.deploy.local.system.system_file import SystemFile, remove_system, write_system
from penstock.deploy.local.system.webhook_secret import kept_secret
from penstock.deploy.local.up.announcer import Announcer
from penstock.deploy.local.up.guard import Guard
from penstock.deploy.local.up.launcher import Condition, Launcher, Part, until
from penstock.deploy.local.up.readiness import (
    answers,
    gateway_reports,
    leader_exists,
    worker_reports,
)
from penstock.deploy.local.up.restart import Rolling
from penstock.deploy.local.up.restart_socket import NAME as RESTART_SOCKET
from penstock.deploy.local.up.restart_socket import RestartSocket
from penstock.deploy.local.up.settings import UpSettings
from penstock.deploy.local.up.system_plan import SystemPlan
from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.sources.types import ROLE_TAG
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs.store import durability_at
from penstock.shared.process.lifecycle import adopt_orphans, end_orphans
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore

ORPHANS_END_S = 2.0
"""Longest wait for processes that were killed; what the kernel cannot end is left to it."""

ORPHANS_LOOK_S = 0.05
"""Killing takes a moment, and lets appear what the killed ones had started."""

DRAIN_STAGES: tuple[Callable[[str], bool], ...] = (
    lambda name: name.startswith("gateway-"),  # takes nothing new, answers what it has
    lambda name: name.startswith("registry-sync-"),  # else it would move replicas about
    lambda name: name.startswith("worker-"),
    lambda name: name == "mlflow",
    lambda name: True,  # the store last: the others say goodbye in it
)


def run_up(settings: UpSettings) -> int:
    """Run a system until it is told to end; returns the exit code.

    Raises:
        CommandError: if it cannot be started.
    """
    setproctitle.setproctitle("penstock up")
    os.umask(PRIVATE_UMASK)
    adopt_orphans()
    check_extras(settings)
    _check_models(settings)
    data_dir = DataDir(settings.data_dir.expanduser().resolve())
    findings = data_dir.make()
    lock_fd = lock_data_dir(data_dir)
    listener = listen(settings.host, settings.port, "--port")
    if settings.starts_mlflow:
        check_free("127.0.0.1", settings.mlflow_port, "--mlflow-port")
    metrics = None
    if settings.metrics_port:
        metrics = listen(settings.host, settings.metrics_port, "--metrics-port")
    runtime = RuntimeDir.make(data_dir.path)
    try:
        plan = _plan(settings, data_dir, runtime, listener)
        return asyncio.run(_System(plan, lock_fd, listener, metrics, findings).run())
    finally:
        remove_system(data_dir)
        runtime.remove()


def _check_models(settings: UpSettings) -> None:
    if settings.models_dir is not None and not settings.models_dir.is_dir():
        raise CommandError(f"--models: {settings.models_dir} is no folder", exit_code=2)


def _mlflow_uri(settings: UpSettings) -> str:
    if settings.models is not None:
        return ""
    return settings.mlflow_uri or f"http://127.0.0.1:{settings.mlflow_port}"


def _health_of(mlflow_uri: str) -> Condition:
    return answers(f"{mlflow_uri.rstrip('/')}/health", ours=False)


def _plan(
    settings: UpSettings, data_dir: DataDir, runtime: RuntimeDir, listener: socket.socket
) -> SystemPlan:
    return SystemPlan(
        settings=settings,
        data_dir=data_dir,
        runtime=runtime,
        redis_url=settings.redis_url or valkey.url_of(runtime),
        mlflow_uri=_mlflow_uri(settings),
        listen_fd=listener.fileno(),
        port=port_of(listener),
        webhook_secrets=_webhook_secrets(settings, data_dir),
    )


def _webhook_secrets(settings: UpSettings, data_dir: DataDir) -> str:
    if settings.webhook_secrets is not None:
        return settings.webhook_secrets.get_secret_value()
    return kept_secret(data_dir.webhook_secret)


class _System:
    """One life of a local system.

    Args:
        plan: which children it has.
        lock_fd: of the data directory's lock.
        listener: of the gateways.
        metrics: listens for scrapes of the sum; None: there is none.
        findings: what is to be said of the data directory.
    """

    def __init__(
        self,
        plan: SystemPlan,
        lock_fd: int,
        listener: socket.socket,
        metrics: socket.socket | None,
        findings: list[str],
    ) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._listener = listener
        self._url = url_of(plan.settings.host, plan.port)
        self._announcer = Announcer()
        self._guard = Guard(lock_fd)
        self._launcher = Launcher(self._guard, self._announcer, self._write_system_file)
        self._metrics_listener = metrics
        self._findings = findings
        self._stop = asyncio.Event()
        self._force = asyncio.Event()

    async def run(self) -> int:
        """Start, keep, drain."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal)
        await self._guard.start()
        logs = asyncio.create_task(self._launcher.bound_logs())
        try:
            await self._until_stopped()
            self._announcer.say(
                "draining; jobs that run get what their model's penstock.drain_timeout_s allows; "
                "Ctrl-C again ends everything at once"
            )
        finally:
            await self._drain()
            logs.cancel()
            await self._guard.stop()
            await self._end_orphans()
        self._announcer.say("stopped")
        return 0

    async def _end_orphans(self) -> None:
        """Kill what models of workers that were killed had started in sessions of their own."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORPHANS_END_S):
                while end_orphans(()):  # noqa: ASYNC110 - these are no children that we started
                    await asyncio.sleep(ORPHANS_LOOK_S)

    def _on_signal(self) -> None:
        (self._force if self._stop.is_set() else self._stop).set()

    async def _until_stopped(self) -> None:
        work = asyncio.create_task(self._start_and_keep())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, CommandError):
                    await task

    async def _drain(self) -> None:
        # Clients that connect from now on are refused, rather than left waiting for an accept.
        self._listener.close()
        self._stop.set()
        draining = asyncio.create_task(self._launcher.drain(DRAIN_STAGES))
        forced = asyncio.create_task(self._force.wait())
        await asyncio.wait({draining, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not draining.done():
            self._launcher.kill()
        await draining

    async def _start_and_keep(self) -> None:
        store = RedisStateStore(self._plan.redis_url, Keys(self._settings.namespace))
        try:
            await self._start(store)
        finally:
            await store.close()
        with self._metrics_server():
            self._announcer.say(self._description())
            await self._keep()

    def _description(self) -> str:
        data_dir, settings = self._plan.data_dir, self._settings
        secret = data_dir.webhook_secret if settings.webhook_secrets is None else None
        return describe_system(
            self._system_file(),
            data_dir.logs,
            secret,
            demo=settings.demo,
            role=TagNames(settings.tag_prefix).outward(ROLE_TAG),
        )

    async def _keep(self) -> None:
        """Keep everything running, and restart parts of it when asked."""
        settings = self._settings
        rolling = Rolling(self._launcher, self._plan, settings.namespace, settings.ready_timeout_s)
        requests = RestartSocket(self._restart_socket, rolling.restart)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(requests.serve())
            tasks.create_task(self._launcher.keep())

    @property
    def _restart_socket(self) -> Path:
        return self._plan.runtime.path / RESTART_SOCKET

    async def _start(self, store: RedisStateStore) -> None:
        self._announcer.say(f"starting Penstock on {self._plan.data_dir.path}")
        for finding in self._findings:
            self._announcer.warn(finding)
        await self._start_store()
        launcher, plan = self._launcher, self._plan
        starts_mlflow = self._settings.starts_mlflow
        mlflow = await launcher.start(plan.mlflow()) if starts_mlflow else None
        # Neither gateways nor workers need MLflow, so they start while it does.
        gateways = [await launcher.start(spec) for spec in plan.gateways()]
        workers = [await launcher.start(spec) for spec in plan.workers()]
        # With MLflow to wait for, a daemon would only complain.
        early = [await launcher.start(spec) for spec in plan.syncs()] if mlflow is None else []
        await self._await_mlflow(mlflow)
        for part in gateways:
            await self._await_part(part.spec.name, part, gateway_reports(store, part))
        for part in workers:
            await self._await_part(part.spec.name, part, worker_reports(store, part))
        syncs = early or [await launcher.start(spec) for spec in plan.syncs()]
        leader = leader_exists(plan.redis_url, self._settings.namespace)
        await self._await_part("registry-sync", syncs[0], leader)
        await self._await_part("HTTP", gateways[0], answers(f"{self._url}/v2/health/live"))
        self._write_system_file()
        if self._settings.demo:
            await self._start_demo()

    async def _await_part(self, what: str, part: Part, ready: Condition) -> None:
        with self._announcer.step(what):
            await self._launcher.until_ready(part, ready, self._settings.ready_timeout_s)

    async def _start_store(self) -> None:
        plan = self._plan

        async def ready() -> bool:
            return await valkey.ping(plan.redis_url)

        if self._settings.redis_url is not None:
            with self._announcer.step("state store"):
                await valkey.until_read(plan.redis_url, self._settings.ready_timeout_s)
            await self._warn_of_loss()
            return
        spec = valkey.valkey_spec(plan.data_dir, plan.runtime, self._settings.store_memory)
        pid = await valkey.find_server(plan.data_dir, plan.redis_url)
        if pid is not None:
            part = self._launcher.adopt(spec, pid)
        else:
            part = await self._launcher.start(spec)
        await self._await_part("state store (valkey)", part, ready)

    async def _warn_of_loss(self) -> None:
        with contextlib.suppress(StateStoreError):
            found = await durability_at(self._plan.redis_url)
            if not found.is_sure:
                self._announcer.warn(f"--redis-url: {found.meaning} (penstock doctor says more)")

    async def _await_mlflow(self, part: Part | None) -> None:
        uri = self._plan.mlflow_uri
        if part is not None:
            ready = answers(f"{uri}/health")
            await self._await_part("MLflow (its first start takes a while)", part, ready)
        elif uri.startswith("http") and not await _health_of(uri)():
            # What is deployed is served without it, so this is no reason not to start.
            self._announcer.warn("MLflow does not answer at the URI given by --mlflow-uri")

    async def _start_demo(self) -> None:
        with self._announcer.step("models for the demo (two are trained the first time)"):
            await self._launcher.run_once(self._plan.demo())
        timeout_s = self._settings.ready_timeout_s
        with self._announcer.step("model digits"):
            try:
                ready = answers(f"{self._url}/v2/models/digits/ready")
                await asyncio.wait_for(until(ready), timeout_s)
            except TimeoutError:
                raise CommandError(
                    f"model digits was not ready after {timeout_s:.0f} s; "
                    f"logs: {self._plan.data_dir.logs}"
                ) from None

    @contextlib.contextmanager
    def _metrics_server(self) -> Iterator[None]:
        if self._metrics_listener is None:
            yield
            return
        server = MetricsServer(
            self._metrics_listener,
            self._plan.redis_url,
            self._settings.namespace,
            self._settings.host,
        )
        server.start()
        try:
            yield
        finally:
            server.stop()

    def _system_file(self) -> SystemFile:
        metrics_url = ""
        if self._metrics_listener is not None:
            port = port_of(self._metrics_listener)
            metrics_url = url_of(self._settings.host, port) + "/metrics"
        return SystemFile(
            pid=os.getpid(),
            url=self._url,
            mlflow_uri=self._plan.mlflow_uri,
            models=str(self._settings.models_dir or ""),
            redis_url=self._plan.redis_url,
            namespace=self._settings.namespace,
            metrics_url=metrics_url,
            restart_socket=str(self._restart_socket),
            processes=self._launcher.pids(),
        )

    def _write_system_file(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end what runs
            write_system(self._plan.data_dir, self._system_file())
