"""`open_loop`: latency at fixed rates, as shares of what the server can do.

Capacity is the median throughput of a closed loop of 64 clients, in the same minutes. What is to be
expected at a rate is a model's own matter: where batches take 14 ms, nobody can promise 5.
"""

from __future__ import annotations

from load_tests.measuring.measure import closed_point, target, told
from load_tests.measuring.open_loop import open_point
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference, batch_of
from load_tests.report.results import Check, Point, ScenarioResult, merge
from load_tests.scenarios.closed import warm_up
from load_tests.server import MAX_BATCH_SIZE, Encoding, Model
from load_tests.servers.penstock import Penstock, RunningPenstock, serving
from load_tests.servers.replica_metrics import executed
from load_tests.servers.verification import verify

MODELS = ("tiny", "medium")
SHARES = (0.5, 0.8, 0.95)
CONNECTIONS = 64

BAR_MODEL, BAR_SHARE, BAR_EXECUTIONS = "medium", 0.8, 3
"""At this share of its capacity, the p99 of this model is to be within so many executions of a
full batch: the one that is under way when a request comes, its own, and one of bad luck. An
execution is what the replica itself says that its rows took while capacity was measured."""


def run_open_loop(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    points: list[Point] = []
    checks: list[Check] = []
    notes: list[str] = []
    for name in MODELS:
        server, model = Penstock(), session.model(name)
        with serving(server, [model], session.new_folder(name)) as running:
            full_ms, found = _measure(session, server, running, model, notes)
        points += found
        if name == BAR_MODEL:
            checks.append(_bar(model, full_ms, found[1 + SHARES.index(BAR_SHARE)]))
    return ScenarioResult(
        name="open_loop",
        about="Poisson arrivals at shares of the capacity (first line of each model); latency from "
        "the intended time. JSON.",
        points=points,
        checks=checks,
        notes=notes,
    )


def _measure(
    session: Session, server: Penstock, running: RunningPenstock, model: Model, notes: list[str]
) -> tuple[float, list[Point]]:
    """What a full batch takes, in ms; the capacity, then a point for each share."""
    samples, reference = session.samples(model), Reference(model.path)
    at = target(server.name, running, model, Encoding.JSON, samples)
    verify(running, Encoding.JSON, samples, reference)
    warm_up(at)
    before = executed(running.metrics(), model.name)
    closed = [closed_point(at, CONNECTIONS, session.duration_s) for _ in range(session.repeats)]
    capacity_batches = executed(running.metrics(), model.name).since(before)
    notes.append(f"`{model.name}` at its capacity: {capacity_batches}.")
    capacity = merge(closed)
    session.say(told(capacity))
    points = [capacity]
    for share in SHARES:
        rate_rps = capacity.goodput_rps * share
        label = f"{share:.0%} = {rate_rps:.0f}/s"
        before = executed(running.metrics(), model.name)
        runs = []
        for seed in range(1, session.repeats + 1):
            runs.append(open_point(at, rate_rps, session.duration_s, load=label, seed=seed))
            session.say(told(runs[-1]))
        points.append(merge(runs))
        batches = executed(running.metrics(), model.name).since(before)
        notes.append(f"`{model.name}` at {label}: {batches}.")
    verify(running, Encoding.JSON, samples, reference)
    return capacity_batches.ms_of(MAX_BATCH_SIZE), points


def _bar(model: Model, full_ms: float, point: Point) -> Check:
    """Compare a p99 with the replica's own time for a full batch."""
    alone_ms = Reference(model.path).call_us(batch_of(model, MAX_BATCH_SIZE)) / 1000
    bar_ms = BAR_EXECUTIONS * full_ms
    return Check(
        f"p99 of `{model.name}` at {BAR_SHARE:.0%} against {BAR_EXECUTIONS} x the replica's "
        f"{full_ms:.1f} ms for a batch of {MAX_BATCH_SIZE} (ONNX Runtime alone, right after: "
        f"{alone_ms:.1f} ms)",
        point.void or f"{point.latency.p99_ms:.1f} ms against {bar_ms:.1f} ms",
        None if point.void else point.latency.p99_ms <= bar_ms,
    )
