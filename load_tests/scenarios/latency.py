"""`latency`: what one client waits for beyond the model itself.

Three measurements in turn: our server with one client, uvicorn with a fixed answer of the same size
for the same requests, and the model alone, called in this process. What ours takes beyond the sum
of the other two is what validation, queue, transport and batching cost. The model alone is measured
right before ours and right after: a machine whose speed drifts by a tenth within a minute would
else make half a millisecond of a model that takes three.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from load_tests.measuring.measure import Target, closed_point, target, told
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference, batch_of
from load_tests.report.results import Check, Point, ScenarioResult, Table, merge
from load_tests.report.tables import number
from load_tests.scenarios.closed import warm_up
from load_tests.server import Encoding, Model
from load_tests.servers.bare import BareUvicorn
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.verification import verify

MODELS = ("tiny", "mlp", "medium")
OVERHEAD_MS_MAX = 0.5
ROUND_S_MAX = 3.0
"""Enough for a median of one client; the longer rounds that tails need would take minutes."""

HEADER = ("model", "encoding", "p50 ms", "model alone", "bare uvicorn", "overhead")


@dataclass(frozen=True)
class _Round:
    """Ours, bare uvicorn, and the model alone, in turn."""

    ours: Point
    bare: Point
    alone_ms: float

    def row(self) -> tuple[float, ...]:
        """In the order of `HEADER`."""
        ours_ms, bare_ms = self.ours.latency.p50_ms, self.bare.latency.p50_ms
        return ours_ms, self.alone_ms, bare_ms, ours_ms - self.alone_ms - bare_ms


def run_latency(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    points: list[Point] = []
    rows: list[list[str]] = []
    checks: list[Check] = []
    for name in MODELS:
        for encoding in Penstock().encodings:
            rounds = _measure(session, session.model(name), encoding)
            points += [merge([each.ours for each in rounds]), merge([each.bare for each in rounds])]
            figures = [median(each) for each in zip(*(each.row() for each in rounds), strict=True)]
            overhead_ms = figures[-1]
            rows.append([name, encoding.value, *(f"{figure:.3f}" for figure in figures)])
            what = f"overhead on `{name}` in {encoding.value}, at most {OVERHEAD_MS_MAX} ms"
            checks.append(Check(what, f"{overhead_ms:.2f} ms", overhead_ms <= OVERHEAD_MS_MAX))
    return ScenarioResult(
        name="latency",
        about="One client; p50, less that of the model alone, less that of bare uvicorn; medians.",
        points=points,
        tables=[Table("Overhead in ms", HEADER, rows)],
        checks=checks,
    )


def _measure(session: Session, model: Model, encoding: Encoding) -> list[_Round]:
    samples, reference = session.samples(model), Reference(model.path)
    server, bare = Penstock(), BareUvicorn(encoding)
    bare_running = bare.start(model, session.new_folder(bare.name))
    try:
        with serving(server, [model], session.new_folder(model.name)) as running:
            verify(running, encoding, samples, reference)
            ours_at = target(server.name, running, model, encoding, samples)
            bare_at = target(bare.name, bare_running, model, encoding, samples)
            warm_up(ours_at)
            rounds = [_round(session, ours_at, bare_at, model) for _ in range(session.repeats)]
            verify(running, encoding, samples, reference)
    finally:
        bare_running.stop()
    return rounds


def _round(session: Session, ours_at: Target, bare_at: Target, model: Model) -> _Round:
    reference, row = Reference(model.path), batch_of(model, 1)
    seconds = min(session.duration_s, ROUND_S_MAX)
    before_us = reference.call_us(row)
    ours = closed_point(ours_at, 1, seconds)
    alone_ms = (before_us + reference.call_us(row)) / 2000
    bare = closed_point(bare_at, 1, seconds)
    for point in (ours, bare):
        session.say(told(point))
    session.say(f"  {model.name} alone: {number(alone_ms)} ms")
    return _Round(ours, bare, alone_ms)
