"""`latency`: what one client waits for beyond the model itself.

Three measurements in turn: our server with one client, uvicorn with a fixed answer of the same size
for the same requests, and the model alone, called in this process. What ours takes beyond the sum
of the other two is what validation, queue, transport and batching cost.
"""

from __future__ import annotations

from statistics import median

from load_tests.bare import BareUvicorn
from load_tests.measure import closed_point, target, told
from load_tests.penstock import Penstock, serving
from load_tests.reference import Reference, batch_of
from load_tests.results import Check, Point, ScenarioResult, Table, merge
from load_tests.scenarios.closed import warm_up
from load_tests.server import Encoding, Model
from load_tests.session import Session
from load_tests.tables import number
from load_tests.verification import verify

MODELS = ("tiny", "mlp", "medium")
OVERHEAD_MS_MAX = 0.5
ROUND_S_MAX = 3.0
"""Enough for a median of one client; the longer rounds that tails need would take minutes."""

HEADER = ("model", "encoding", "p50 ms", "model alone", "bare uvicorn", "overhead")


def run_latency(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    points: list[Point] = []
    rows: list[list[str]] = []
    checks: list[Check] = []
    for name in MODELS:
        for encoding in Penstock().encodings:
            ours, bare, alone_ms = _measure(session, session.model(name), encoding)
            points += [ours, bare]
            overhead_ms = ours.latency.p50_ms - alone_ms - bare.latency.p50_ms
            figures = (ours.latency.p50_ms, alone_ms, bare.latency.p50_ms, overhead_ms)
            rows.append([name, encoding.value, *(f"{figure:.3f}" for figure in figures)])
            what = f"overhead on `{name}` in {encoding.value}, at most {OVERHEAD_MS_MAX} ms"
            checks.append(Check(what, f"{overhead_ms:.2f} ms", overhead_ms <= OVERHEAD_MS_MAX))
    return ScenarioResult(
        name="latency",
        about="One client; p50, less that of the model alone, less that of bare uvicorn.",
        points=points,
        tables=[Table("Overhead in ms", HEADER, rows)],
        checks=checks,
    )


def _measure(session: Session, model: Model, encoding: Encoding) -> tuple[Point, Point, float]:
    """Ours, bare uvicorn, and the model alone in ms, in turn."""
    samples, reference = session.samples(model), Reference(model.path)
    server, bare = Penstock(), BareUvicorn(encoding)
    bare_running = bare.start(model, session.new_folder(bare.name))
    try:
        with serving(server, [model], session.new_folder(model.name)) as running:
            verify(running, encoding, samples, reference)
            ours_at = target(server.name, running, model, encoding, samples)
            bare_at = target(bare.name, bare_running, model, encoding, samples)
            warm_up(ours_at)
            rounds: tuple[list[Point], list[Point]] = ([], [])
            alone_ms = []
            for _ in range(session.repeats):
                for at, taken in zip((ours_at, bare_at), rounds, strict=True):
                    taken.append(closed_point(at, 1, min(session.duration_s, ROUND_S_MAX)))
                    session.say(told(taken[-1]))
                alone_ms.append(reference.call_us(batch_of(model, 1)) / 1000)
                session.say(f"  {model.name} alone: {number(alone_ms[-1])} ms")
            verify(running, encoding, samples, reference)
    finally:
        bare_running.stop()
    return merge(rounds[0]), merge(rounds[1]), median(alone_ms)
