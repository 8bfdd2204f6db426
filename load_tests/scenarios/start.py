"""`start`: from `penstock up --models DIR` to the first answer, of a model that is cached.

Where the time goes is told by when processes began (the kernel knows, to 10 ms) and by what they
logged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from load_tests.measuring.session import Session
from load_tests.report.results import Check, ScenarioResult, Table
from load_tests.server import Encoding, Model
from load_tests.servers import oip
from load_tests.servers.penstock import Penstock, RunningPenstock
from load_tests.servers.processes import started_at
from load_tests.servers.start_log import event_at, since, valkey_ready_at

STARTS_MIN = 5
"""Starts differ by their luck with the disk and with timers, more than loads do."""

MOMENTS = (
    *("store began", "store ready", "gateway began", "gateway serves HTTP", "agent began"),
    *("agent ready", "sync began", "sync leads", "replica began", "replica ready"),
    *("replica joined the gateway", "first answer"),
)


def run_start(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    model, work_dir = session.model("tiny"), session.new_folder("start")
    begin = time.time()
    running = Penstock().start(model, work_dir)  # fills the cache
    first_s = time.time() - begin
    running.stop()
    session.say(f"  first start, nothing cached: {first_s:.2f} s")
    starts = []
    for _ in range(max(session.repeats, STARTS_MIN)):
        starts.append(_start(model, work_dir))
        session.say(f"  first answer after {starts[-1][-1]:.2f} s")
    moments = np.array(starts)
    return ScenarioResult(
        name="start",
        about=f"From the command to the first answer of `{model.name}`, {len(starts)} times; the "
        "store, the cache and the model's folder are as the last life left them.",
        tables=[_table(moments.tolist())],
        checks=[
            Check("first answer, median", f"{np.median(moments[:, -1]):.2f} s"),
            Check("the very first start, with nothing cached", f"{first_s:.2f} s"),
        ],
    )


def _start(model: Model, work_dir: Path) -> list[float]:
    """One start: seconds from the command to each of the moments."""
    rows = np.zeros((1, model.width), np.float32)
    request = oip.infer_request(model.name, Encoding.BINARY, rows)
    begin = time.time()
    running = Penstock().launch(model, work_dir)
    try:
        answered = running.until_accepted(request)
        return since(begin, [*_moments(running), answered])
    finally:
        running.stop()


def _moments(running: RunningPenstock) -> list[float | None]:
    began = {role: started_at(pids[0]) for role, pids in running.pids().items()}
    logs = {log.stem: log.read_text(errors="replace") for log in running.logs_dir.glob("*.log")}
    gateway, worker = logs.get("gateway-0", ""), logs.get("worker-0", "")
    return [
        began.get("store"),
        valkey_ready_at(logs.get("valkey", "")),
        began.get("gateway"),
        event_at(gateway, "serving"),
        began.get("agent"),
        event_at(worker, "worker started"),
        began.get("sync"),
        event_at(logs.get("registry-sync-0", ""), "leading"),
        began.get("replica"),
        event_at(worker, "ready"),
        event_at(gateway, "replica joined"),
    ]


def _table(starts: Sequence[Sequence[float]]) -> Table:
    rows = []
    for moment, times in zip(MOMENTS, zip(*starts, strict=True), strict=True):
        known = np.array(times)[~np.isnan(times)]
        figures = [f"{f(known):.2f}" for f in (np.median, np.min, np.max)] if len(known) else []
        rows.append([moment, *(figures or ["-"] * 3)])
    rows.sort(key=lambda row: float("inf") if row[1] == "-" else float(row[1]))
    return Table("Seconds from the command", ("moment", "median", "min", "max"), rows)
