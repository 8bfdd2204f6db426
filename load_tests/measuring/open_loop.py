"""Runs the load generator beside us, and makes a point of what it brings back.

The open loop sends at a fixed rate, and latency runs from the *intended* time. So a server that
stalls for a second shows a second for all who came meanwhile; in a closed loop it would show one
slow answer, since those who wait do not send (coordinated omission). The price is that a generator
that is late itself would be blamed on the server: it reports its own lag, and a run in which that
is too large is void.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load_tests.child import module_command, module_environment
from load_tests.generator.http_wire import request_bytes
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.measuring.measure import Target
from load_tests.report.percentiles import NAN, Latency
from load_tests.report.results import Point
from load_tests.server import ServerError
from load_tests.servers.processes import CpuMeter, pss_mib

STARTS_AND_WRITES_S = 30.0
"""What a generator may take beyond its load."""

CONNECTIONS_MAX = 512
"""Of an open loop, far more than a server that keeps up needs; requests beyond wait in line."""


@dataclass
class Generator:
    """A generator that runs."""

    process: subprocess.Popen[bytes]
    plan: LoadPlan
    folder: Path

    def outcomes(self) -> Outcomes:
        """Wait for its end.

        Raises:
            ServerError: if it failed.
        """
        timeout_s = self.plan.duration_s + self.plan.drain_s + STARTS_AND_WRITES_S
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ServerError("the load generator did not end") from error
        log = (self.folder / "log").read_text(errors="replace").strip()
        if code != 0 or log:  # an event loop logs what goes wrong in callbacks, and goes on
            raise ServerError(f"the load generator failed: {log[-2000:] or code}")
        return Outcomes.read(self.folder / "outcomes")


@contextmanager
def generating(plan: LoadPlan) -> Iterator[Generator]:
    """A generator beside the block, which is ended with it."""
    with tempfile.TemporaryDirectory(prefix="penstock-generator-") as name:
        folder = Path(name)
        plan.write(folder / "plan")
        command = module_command("generator", str(folder / "plan"), str(folder / "outcomes"))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=module_environment())
        try:
            yield Generator(process, plan, folder)
        finally:
            process.kill()
            process.wait()


def run_plan_beside(plan: LoadPlan) -> Outcomes:
    """Carry a plan out in a process of its own.

    Raises:
        ServerError: if that fails.
    """
    with generating(plan) as generator:
        return generator.outcomes()


def open_point(
    target: Target, rate_rps: float, duration_s: float, *, load: str, seed: int = 1
) -> Point:
    """Load a target at a fixed rate."""
    requests = [request_bytes(request) for request in target.requests]
    plan = LoadPlan(
        port=target.running.port,
        requests=requests,
        duration_s=duration_s,
        rate_rps=rate_rps,
        connections=CONNECTIONS_MAX,
        seed=seed,
    )
    meter = CpuMeter(target.running.pids)
    outcomes = run_plan_beside(plan)
    return point_of(target, plan, outcomes, meter, load)


def point_of(
    target: Target, plan: LoadPlan, outcomes: Outcomes, meter: CpuMeter, load: str
) -> Point:
    """What a generator found, with what the server took for it; of a void run, no figures."""
    cpu = meter.stop()
    void = outcomes.void if plan.rate_rps else ""
    goodput_rps = NAN if void else outcomes.goodput_rps
    return Point(
        server=target.server,
        model=target.model,
        encoding=target.encoding.value,
        load=load,
        connections=plan.connections,
        duration_s=plan.duration_s,
        answered=outcomes.answered,
        goodput_rps=goodput_rps,
        goodput_min=goodput_rps,
        goodput_max=goodput_rps,
        latency=Latency() if void else outcomes.latency(),
        errors=outcomes.errors(),
        cpu_us={} if void else cpu.per_request_us(outcomes.answered),
        pss_mib=pss_mib(target.running.pids()),
        others_cores=cpu.others_cores,
        offered_rps=plan.rate_rps,
        lag_p99_ms=outcomes.lag_p99_ms if plan.rate_rps else NAN,
        void=void,
    )
