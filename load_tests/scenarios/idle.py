"""`idle`: a thousand clients that are connected and silent, beside 64 that are not."""

from __future__ import annotations

import contextlib
import resource
import selectors
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from load_tests.child import module_command, module_environment
from load_tests.generator.idle_connections import EVERY_S, READY
from load_tests.measuring.measure import closed_point, target, told
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference
from load_tests.report.results import Check, Point, ScenarioResult, merge
from load_tests.scenarios.closed import warm_up
from load_tests.server import Encoding, ServerError
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.processes import pss_mib
from load_tests.servers.verification import verify

IDLE = 1000
ACTIVE = 64
DESCRIPTORS = 4096
OPEN_TIMEOUT_S = 30.0
SETTLE_S = 1.0
KIB = 1024


@dataclass
class _Idle:
    """How many of the idle connections were lost; known at the end."""

    lost: int = 0


def run_idle(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    server, model = Penstock(), session.model("tiny")
    samples, reference = session.samples(model), Reference(model.path)
    rounds: tuple[list[Point], list[Point]] = ([], [])
    lost, kib_each = 0, []
    with _enough_descriptors(), serving(server, [model], session.new_folder("idle")) as running:
        verify(running, Encoding.JSON, samples, reference)
        at = target(server.name, running, model, Encoding.JSON, samples)
        warm_up(at)
        for _ in range(session.repeats):
            rounds[0].append(closed_point(at, ACTIVE, session.duration_s))
            session.say(told(rounds[0][-1]))
            before_mib = pss_mib(running.pids())["gateway"]
            with _idle_connections(running.port) as idle:
                time.sleep(SETTLE_S)
                more_mib = pss_mib(running.pids())["gateway"] - before_mib
                kib_each.append(more_mib * KIB / IDLE)
                point = closed_point(at, ACTIVE, session.duration_s)
                rounds[1].append(replace(point, load=f"{point.load} beside {IDLE} idle"))
                session.say(told(rounds[1][-1]))
            lost += idle.lost
        verify(running, Encoding.JSON, samples, reference)
    without, beside = merge(rounds[0]), merge(rounds[1])
    failed = without.failed + beside.failed
    return ScenarioResult(
        name="idle",
        about=f"{IDLE} idle keep-alive connections, each of which asks for the server's health "
        f"every {EVERY_S:.0f} s, beside {ACTIVE} clients.",
        points=[without, beside],
        checks=[
            Check("memory for each idle connection, the first time", f"{kib_each[0]:.1f} KiB"),
            Check("throughput beside them", f"{beside.goodput_rps / without.goodput_rps:.2f} x"),
            Check("idle connections lost", str(lost), lost == 0),
            Check("failed requests", str(failed), failed == 0),
        ],
    )


@contextlib.contextmanager
def _idle_connections(port: int) -> Iterator[_Idle]:
    process = subprocess.Popen(
        module_command("generator.idle_connections", str(port), str(IDLE)),
        stdout=subprocess.PIPE,
        env=module_environment(),
        text=True,
    )
    assert process.stdout is not None, "it is a pipe"
    idle = _Idle()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(OPEN_TIMEOUT_S) or process.stdout.readline().strip() != READY:
                raise ServerError(f"{IDLE} connections could not be opened")
        yield idle
        process.terminate()
        idle.lost = int(process.communicate(timeout=OPEN_TIMEOUT_S)[0])
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _enough_descriptors() -> Iterator[None]:
    """Children inherit it; a common default of 1024 is less than a connection each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = max(soft, min(DESCRIPTORS, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
