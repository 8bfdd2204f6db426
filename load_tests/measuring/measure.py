"""One closed-loop load on one server, with what the server took for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.measuring.closed_loop import run_wrk
from load_tests.report.results import Point
from load_tests.server import Encoding, HttpRequest, Model, Rows, Running
from load_tests.servers.processes import CpuMeter, pss_mib


@dataclass(frozen=True)
class Target:
    """A running server, and what is asked of it.

    Attributes:
        server: its name in tables.
    """

    server: str
    running: Running
    model: str
    encoding: Encoding
    requests: Sequence[HttpRequest]


def target(
    server: str, running: Running, model: Model, encoding: Encoding, samples: Sequence[Rows]
) -> Target:
    """A target of requests for some inputs."""
    requests = [running.request(encoding, rows) for rows in samples]
    return Target(server, running, model.name, encoding, requests)


def closed_point(target: Target, connections: int, duration_s: float, *, threads: int = 1) -> Point:
    """Load a target with so many clients, which share so many threads."""
    meter = CpuMeter(target.running.pids)
    loop = run_wrk(target.running.port, target.requests, connections, duration_s, threads=threads)
    cpu = meter.stop()
    return Point(
        server=target.server,
        model=target.model,
        encoding=target.encoding.value,
        load=f"c={connections}",
        connections=connections,
        duration_s=loop.duration_s,
        answered=loop.answered,
        goodput_rps=loop.goodput_rps,
        goodput_min=loop.goodput_rps,
        goodput_max=loop.goodput_rps,
        latency=loop.latency,
        errors=loop.errors,
        cpu_us=cpu.per_request_us(loop.answered),
        pss_mib=pss_mib(target.running.pids()),
        others_cores=cpu.others_cores,
    )


def told(point: Point) -> str:
    """A point in a line, for people who watch."""
    what = f"  {point.server} {point.model} {point.encoding} {point.load}: "
    latency, errors = point.latency, f", errors {dict(point.errors)}" if point.failed else ""
    if point.void:
        return f"{what}VOID: {point.void}{errors}"
    return (
        f"{what}{point.goodput_rps:,.0f}/s, p50 {latency.p50_ms:.2f} p99 {latency.p99_ms:.2f} ms, "
        f"{point.cpu_us_all:.0f} µs of processor{errors}"
    )
