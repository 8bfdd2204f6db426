"""`mixed`: three models at once, `mlp` with 1 to 16 rows a request, and every answer verified.

Batches of requests of different sizes are where rows get mixed up, and where a long execution of
one model may hold up another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from load_tests.generator.http_wire import request_bytes
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.measuring.kept_answers import check_answers
from load_tests.measuring.measure import Target, told
from load_tests.measuring.open_loop import point_of, run_plan_beside
from load_tests.measuring.session import WARM_UP_S, Session
from load_tests.models.reference import Reference, batch_of
from load_tests.models.small import SEED
from load_tests.report.percentiles import latency_of
from load_tests.report.results import Check, ScenarioResult, Table
from load_tests.report.tables import number
from load_tests.server import Encoding, HttpRequest, Rows
from load_tests.servers import oip
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.processes import CpuMeter

ROWS_MAX = 16
SINGLE = ("tiny", "medium")
SINGLE_EACH = 8
CLIENTS = 64


@dataclass(frozen=True)
class _Asked:
    """One of the requests."""

    model: str
    kind: str
    rows: Rows
    request: HttpRequest


def run_mixed(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    server = Penstock()
    models = {name: session.model(name) for name in ("mlp", *SINGLE)}
    asked = _requests(session)
    with serving(server, list(models.values()), session.new_folder("mixed")) as running:
        plan = LoadPlan(
            port=running.port,
            requests=[request_bytes(each.request) for each in asked],
            duration_s=session.duration_s,
            connections=CLIENTS,
            keep_answers=True,
        )
        requests = [each.request for each in asked]
        at = Target(server.name, running, "all three", Encoding.JSON, requests)
        run_plan_beside(replace(plan, duration_s=WARM_UP_S))
        meter = CpuMeter(running.pids)
        outcomes = run_plan_beside(plan)
        point = point_of(at, plan, outcomes, meter, f"c={CLIENTS}, JSON and binary")
    session.say(told(point))
    references = {name: {"1": Reference(model.path)} for name, model in models.items()}
    inputs = [each.rows for each in asked]
    check_answers(outcomes, inputs, [references[each.model] for each in asked])
    return ScenarioResult(
        name="mixed",
        about=f"`mlp` with 1 to {ROWS_MAX} rows, `tiny` and `medium` with one, from {CLIENTS} "
        "clients; by our own generator, which takes more of the machine than wrk.",
        points=[point],
        tables=[_by_kind(outcomes, asked)],
        checks=[
            Check("answers compared with ONNX Runtime", f"all {outcomes.answered}", True),
            Check("failed requests", str(point.failed), point.failed == 0),
        ],
    )


def _requests(session: Session) -> list[_Asked]:
    """In an order that is random, and the same every time."""
    asked = []
    for encoding in (Encoding.JSON, Encoding.BINARY):
        inputs = [("mlp", batch_of(session.model("mlp"), n)) for n in range(1, ROWS_MAX + 1)]
        for name in SINGLE:
            inputs += [(name, rows) for rows in session.samples(session.model(name))[:SINGLE_EACH]]
        for name, rows in inputs:
            request = oip.infer_request(name, encoding, rows)
            asked.append(_Asked(name, f"{name} {encoding.value}", rows, request))
    random.Random(SEED).shuffle(asked)
    return asked


def _by_kind(outcomes: Outcomes, asked: list[_Asked]) -> Table:
    rows = []
    for kind in sorted({each.kind for each in asked}):
        indices = [index for index, each in enumerate(asked) if each.kind == kind]
        mine = outcomes.ok & np.isin(outcomes.request, indices)
        latency = latency_of(outcomes.latency_ms[mine])
        figures = (latency.p50_ms, latency.p99_ms)
        rows.append([kind, str(int(mine.sum())), *map(number, figures)])
    return Table("By kind of request", ("kind", "answered", "p50 ms", "p99 ms"), rows)
