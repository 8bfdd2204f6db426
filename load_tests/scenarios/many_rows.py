"""`many_rows`: calls of one row beside requests of 10,000 rows, or of full batches.

Both kinds of background come from one client in a closed loop, so that each has the replica execute
one full batch after the other. What differs is that 10,000 rows are one request, which a server
that does not cut it would execute before anybody else's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from load_tests.generator.http_wire import request_bytes
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.measuring.kept_answers import check_answers
from load_tests.measuring.measure import Target, closed_point, target, told
from load_tests.measuring.open_loop import generating, open_point
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference, batch_of
from load_tests.report.percentiles import latency_of
from load_tests.report.results import Check, Point, ScenarioResult, Table, merge
from load_tests.report.tables import number
from load_tests.scenarios.closed import warm_up
from load_tests.server import MAX_BATCH_SIZE, Encoding, Model
from load_tests.servers import oip
from load_tests.servers.penstock import Penstock, RunningPenstock, serving

MODELS = ("tiny", "mlp")
ROWS = 10_000
SHARE = 0.2
CONNECTIONS = 64
LEAD_S = 0.5
"""The background begins so much earlier than the calls."""

P99_BAR = 1.5


def run_many_rows(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    points: list[Point] = []
    checks: list[Check] = []
    rows: list[list[str]] = []
    for name in MODELS:
        server, model = Penstock(), session.model(name)
        with serving(server, [model], session.new_folder(name)) as running:
            found, background = _measure(session, running, model)
        points += found
        rows += background
        checks += _checks(name, found)
    return ScenarioResult(
        name="many_rows",
        about=f"Calls of one row in JSON, Poisson arrivals at {SHARE:.0%} of the capacity, beside "
        f"a client in a closed loop that sends full batches ({MAX_BATCH_SIZE} rows), or {ROWS} "
        "rows, in binary; all of its answers are compared with ONNX Runtime.",
        points=points,
        tables=[Table("The other client", ("", "requests/s", "rows/s", "p50 ms", "p99 ms"), rows)],
        checks=checks,
    )


def _measure(
    session: Session, running: RunningPenstock, model: Model
) -> tuple[list[Point], list[list[str]]]:
    """The capacity, then calls beside each background, which alternate; and the backgrounds."""
    at = target("penstock", running, model, Encoding.JSON, session.samples(model))
    warm_up(at)
    closed = [closed_point(at, CONNECTIONS, session.duration_s) for _ in range(session.repeats)]
    capacity = merge(closed)
    session.say(told(capacity))
    rate_rps = SHARE * capacity.goodput_rps
    beside: dict[int, list[Point]] = {MAX_BATCH_SIZE: [], ROWS: []}
    seen: dict[int, list[Outcomes]] = {MAX_BATCH_SIZE: [], ROWS: []}
    for seed in range(1, session.repeats + 1):
        for rows in beside:
            point, outcomes = _beside(session, at, model, rows, rate_rps, seed)
            session.say(told(point))
            beside[rows].append(point)
            seen[rows].append(outcomes)
    points = [capacity, *(merge(each) for each in beside.values())]
    return points, [_row(model.name, rows, outcomes) for rows, outcomes in seen.items()]


def _beside(
    session: Session, at: Target, model: Model, rows: int, rate_rps: float, seed: int
) -> tuple[Point, Outcomes]:
    """Calls beside requests of so many rows."""
    inputs = batch_of(model, rows)
    plan = LoadPlan(
        port=at.running.port,
        requests=[request_bytes(oip.infer_request(model.name, Encoding.BINARY, inputs))],
        duration_s=session.duration_s + 2 * LEAD_S,
        connections=1,
        drain_s=60.0,
        keep_answers=True,
    )
    load = f"{SHARE:.0%} = {rate_rps:.0f}/s beside {rows} rows"
    with generating(plan) as background:
        time.sleep(LEAD_S)
        point = open_point(at, rate_rps, session.duration_s, load=load, seed=seed)
        outcomes = background.outcomes()
    check_answers(outcomes, [inputs], [{"1": Reference(model.path)}])
    return point, outcomes


def _row(model: str, rows: int, runs: Sequence[Outcomes]) -> list[str]:
    """Medians would say less of few: all runs together."""
    answered = sum(run.answered for run in runs)
    per_s = sum(run.goodput_rps for run in runs) / len(runs)
    latencies = [latency_of(run.latency_ms[run.ok]) for run in runs if run.answered]
    slowest = max((each.p99_ms for each in latencies), default=float("nan"))
    middle = sorted(each.p50_ms for each in latencies)[len(latencies) // 2] if latencies else 0.0
    name = f"`{model}`, {rows} rows, {answered} answered"
    return [name, number(per_s), number(per_s * rows), number(middle), number(slowest)]


def _checks(name: str, points: Sequence[Point]) -> list[Check]:
    _, batches, many = points
    void, failed = batches.void or many.void, batches.failed + many.failed
    if not void and failed:
        void = "calls failed"
    ratio = many.latency.p99_ms / batches.latency.p99_ms
    return [
        Check(
            f"p99 of `{name}` at {SHARE:.0%} beside {ROWS} rows",
            void or f"{ratio:.2f} x that beside full batches",
            None if void else ratio <= P99_BAR,
        ),
        Check(f"calls of `{name}` that failed", str(failed), failed == 0),
    ]
