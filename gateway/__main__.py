"""A gateway process: wires service, routing feed and HTTP together, and drains them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from functools import partial

import setproctitle
import uvicorn

from penstock.gateway.clients.origin_policy import OriginPolicy, origin_policy
from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.policies.admission import AdmissionSettings
from penstock.gateway.dispatch.replicas import RevisionSettings
from penstock.gateway.http.app import create_app
from penstock.gateway.http.bodies.readers import body_readers
from penstock.gateway.http.metrics import HttpMetrics
from penstock.gateway.http.server.connection import DrainState
from penstock.gateway.http.server.direct import DirectConnection, ShortWay
from penstock.gateway.http.server.server import GracefulServer
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.http.traced_app import TracedApp
from penstock.gateway.inference.metrics import DispatchCollector
from penstock.gateway.inference.service import InferenceService
from penstock.gateway.jobs.assembly import PARTS as JOBS_PARTS
from penstock.gateway.jobs.assembly import GatewayJobs
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.memory.metrics import HeldBytesCollector
from penstock.gateway.memory.trim import keep_little
from penstock.gateway.routing.feed import RoutingFeed
from penstock.gateway.settings import GatewaySettings, read_codes
from penstock.gateway.transport.router import advertised_endpoint, check_endpoint
from penstock.shared.contracts.addresses import authority_of, is_loopback, url_of
from penstock.shared.contracts.deployment import GatewayReport
from penstock.shared.contracts.ids import new_incarnation, node_name
from penstock.shared.metrics.endpoint import process_registry, serve_metrics
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.compiled import is_compiled
from penstock.shared.process.descriptors import DescriptorWatch
from penstock.shared.process.lifecycle import die_with_parent
from penstock.shared.process.restarts import Restarts, RestartsCollector
from penstock.shared.process.telemetry import configure_logging, get_logger
from penstock.shared.process.tracing import Tracer, make_tracer
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from penstock.shared.wire.curve import GatewayKeys, read_gateway_keys

log = get_logger("gateway")

COLLECT_AFTER = 50_000
"""Objects made and still alive, above which the young ones are looked through: more than the calls
that are open at one time under load consist of."""

LISTEN_BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel may allow fewer."""


class Gateway:
    """The parts of one gateway process."""

    def __init__(self, settings: GatewaySettings, tracer: Tracer | None) -> None:
        self._settings = settings
        self.tracer = tracer
        self._changed = asyncio.Event()
        incarnation = new_incarnation(settings.gateway)
        self.held = HeldBytes(settings.held_bytes_max, settings.held_small_share_bytes)
        self.bounds = ClientBounds(
            self.held, settings.answer_timeout_s, settings.linger_s, settings.keep_alive_s
        )
        self.service = InferenceService(
            endpoint=settings.endpoint,
            incarnation=incarnation,
            limits=_limits(settings),
            silence_s=settings.silence_s,
            ready_when=settings.ready_when,
            clock=SystemClock(),
            on_change=self._on_change,
            tracer=tracer,
            keys=_keys(settings),
            held=self.held,
        )
        self.registry = process_registry()
        self.registry.register(DispatchCollector(self.service))
        self.registry.register(HeldBytesCollector(self.bounds))
        self._restarts = Restarts(("routing_feed", "descriptors", *JOBS_PARTS))
        self.registry.register(RestartsCollector(self._restarts))
        self.store = RedisStateStore(settings.redis_url, Keys(settings.namespace))
        self.jobs = GatewayJobs(settings, self.service, self.held)
        self.registry.register(self.jobs.collector)
        self.feed = RoutingFeed(
            self.store,
            GatewayReport(
                gateway=settings.gateway,
                incarnation=incarnation,
                node=node_name(),
                pid=os.getpid(),
                endpoint="",
                url=url_of(settings.host, settings.port),
                metrics_port=serve_metrics(
                    self.registry, settings.metrics_host, settings.metrics_port
                ),
            ),
            poll_s=settings.state_poll_s,
            interval_s=settings.report_interval_s,
            ttl_s=settings.report_ttl_s,
        )

    async def run(self, listener: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT, then drain: HTTP first, the replicas' side last."""
        settings = self._settings
        server = _http_server(self, settings, policy_of(settings, listener))
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._leave, server)
        feed = self._restarts.keep("routing_feed", self._feed)
        watch = self._restarts.keep("descriptors", DescriptorWatch().run)
        # Calls need neither the feed nor jobs: only the service's own failure is the end.
        parts = (self.service.run(), feed, watch, self.jobs.run(self._restarts))
        background = [loop.create_task(part) for part in parts]
        for task in background:
            task.add_done_callback(lambda task: _end_if_failed(task, server))
        await self._settle()
        _collect_seldom()
        url = url_of(settings.host, listener.getsockname()[1])
        log.info("serving", url=url, compiled=is_compiled())
        await server.serve(sockets=[listener])
        for task in reversed(background):
            task.cancel()
        results = await asyncio.gather(*background, return_exceptions=True)
        await self.jobs.close()
        await self.store.close()
        await asyncio.to_thread(body_readers.close)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _feed(self) -> None:
        address = self._settings.advertise_address
        await self.feed.run(
            self.service, lambda: advertised_endpoint(self.service.endpoint, address)
        )

    async def _settle(self) -> None:
        """Accept nothing before routes and replicas are known, within reason."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.startup_wait_s):
                while not self.service.settled():
                    self._changed.clear()
                    await self._changed.wait()

    def _on_change(self) -> None:
        self._changed.set()
        self.feed.gateway_changed()

    def _leave(self, server: GracefulServer) -> None:
        if server.leaving:
            server.hurry()
            return
        log.info("draining")
        self.service.begin_drain()
        self.jobs.begin_drain()
        server.leave(self._settings.drain_wait_s)


def _collect_seldom() -> None:
    """Make garbage collection rare, and cheap: what a request makes holds no cycles.

    With the defaults, a sixth of the processor time of a busy gateway went into it.
    """
    gc.collect()
    gc.freeze()  # what is there now stays
    gc.set_threshold(COLLECT_AFTER)


def _end_if_failed(task: asyncio.Task[None], server: uvicorn.Server) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a background task failed", reason=repr(task.exception()))
        server.should_exit = True


def _limits(settings: GatewaySettings) -> DispatchLimits:
    return DispatchLimits(
        queue_limit=settings.queue_limit,
        queue_bytes_limit=settings.queue_bytes_limit,
        default_timeout_s=settings.default_timeout_s,
        max_timeout_s=settings.max_timeout_s,
        replica_wait_s=settings.replica_wait_s,
        attempts_max=settings.attempts_max,
        retry_codes=read_codes(settings.retry_on),
        revisions=RevisionSettings(AdmissionSettings(sheds=settings.admission == "adaptive")),
    )


def _keys(settings: GatewaySettings) -> GatewayKeys | None:
    """What replicas prove themselves by; a Unix socket has its folder's permissions instead."""
    if settings.keys_dir is None or not settings.endpoint.startswith("tcp://"):
        return None
    return read_gateway_keys(settings.keys_dir)


def policy_of(settings: GatewaySettings, listener: socket.socket) -> OriginPolicy:
    """Whom browsers may bring here; where any name is answered, the log says so."""
    loopback = is_loopback(listener.getsockname()[0])
    policy = origin_policy(
        settings.allowed_hosts, settings.cors_origins, loopback=loopback, host=settings.host
    )
    if policy.hosts is None:
        log.info(
            "any Host is answered, so a page in a browser that reaches this address may read what "
            "it serves; name the hosts with --allowed-hosts",
            host=settings.host,
        )
    return policy


def _http_server(
    gateway: Gateway, settings: GatewaySettings, origins: OriginPolicy
) -> GracefulServer:
    app = create_app(
        gateway.service,
        HttpSettings(
            max_body_bytes=settings.max_body_bytes,
            max_request_elements=settings.max_request_elements,
            max_request_rows=settings.max_request_rows,
            body_timeout_s=settings.body_timeout_s,
            compress_min_bytes=settings.compress_min_bytes,
            origins=origins,
        ),
        HttpMetrics(gateway.registry),
        gateway.jobs.clients,
        gateway.held,
    )
    traced = app if gateway.tracer is None else TracedApp(app, gateway.tracer)
    return GracefulServer(
        traced,
        DrainState(settings.drain_quiet_s, settings.drain_grace_s),
        partial(DirectConnection, way=ShortWay(app.infer, app.scoring, gateway.tracer)),
        gateway.bounds,
    )


def open_listener(settings: GatewaySettings) -> socket.socket:
    """The socket to serve HTTP on: inherited from a launcher, or bound here.

    Raises:
        OSError: if the address is taken or not ours; it says which.
    """
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{authority_of(settings.host, settings.port)} ({error.strerror})"
        raise OSError(f"cannot listen on {where}; choose another with --port") from error
    listener.listen(LISTEN_BACKLOG)
    return listener


def run_with(settings: GatewaySettings) -> None:
    """Run a gateway until it is told to end.

    Raises:
        EndpointError: if the ZeroMQ endpoint must not or cannot be bound.
        KeysError: if the folder of keys lacks one, or shows one to everyone.
        OSError: if the HTTP address is taken.
    """
    die_with_parent()
    keep_little()
    setproctitle.setproctitle(f"penstock gateway {settings.gateway.removeprefix('gateway-')}")
    configure_logging(
        settings.log_level, settings.log_format, process="gateway", gateway=settings.gateway
    )
    check_endpoint(
        settings.endpoint,
        secured=settings.keys_dir is not None,
        insecure_tcp=settings.insecure_tcp,
        advertise_address=settings.advertise_address,
    )
    listener = open_listener(settings)
    tracer = make_tracer("penstock-gateway", settings.gateway, os.environ)
    with asyncio.Runner(
        loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()
    ) as runner:
        runner.run(Gateway(settings, tracer).run(listener))
    if tracer is not None:
        tracer.flush()


if __name__ == "__main__":
    run_with(GatewaySettings())
