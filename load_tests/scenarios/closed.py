"""`tiny`, `mlp`, `medium`: one model, both encodings, from one client to many."""

from __future__ import annotations

from load_tests.measuring.measure import Target, closed_point, target, told
from load_tests.measuring.session import WARM_UP_S, Session
from load_tests.models.reference import Reference
from load_tests.report.results import Check, Point, ScenarioResult, merge
from load_tests.server import Encoding, Model
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.verification import verify

CONCURRENCIES = (1, 16, 64, 256)
WARM_UP_CONNECTIONS = 64


def run_closed(session: Session, name: str) -> ScenarioResult:
    """Load one model; see the module's docstring."""
    server, model = Penstock(), session.model(name)
    samples, reference = session.samples(model), Reference(model.path)
    with serving(server, [model], session.new_folder(name)) as running:
        verified = 0
        targets = []
        for encoding in server.encodings:
            targets.append(target(server.name, running, model, encoding, samples))
            verified += verify(running, encoding, samples, reference)
            warm_up(targets[-1])
        points = measure_all(session, targets)
        for encoding in server.encodings:
            verified += verify(running, encoding, samples, reference)
    return ScenarioResult(
        name=name,
        about=f"`{name}`, {_shape(model)}; one gateway, one replica with one thread.",
        points=points,
        checks=[
            Check("answers compared with ONNX Runtime, before and after", str(verified), True),
            Check("failed requests", str(failed := sum(p.failed for p in points)), failed == 0),
        ],
    )


def warm_up(target: Target) -> None:
    """Load that is not measured: code paths, connections, batches of all sizes."""
    closed_point(target, WARM_UP_CONNECTIONS, WARM_UP_S)


def measure_all(session: Session, targets: list[Target]) -> list[Point]:
    """Every target at every concurrency, merged over repeats.

    Repeats are the outer loop, so that a slow minute of the machine hits all points alike.
    """
    seen: dict[tuple[Encoding, int], list[Point]] = {}
    for repeat in range(session.repeats):
        if session.repeats > 1:
            session.say(f"  repeat {repeat + 1} of {session.repeats}")
        for each in targets:
            for connections in CONCURRENCIES:
                point = closed_point(each, connections, session.duration_s)
                session.say(told(point))
                seen.setdefault((each.encoding, connections), []).append(point)
    return [merge(points) for points in seen.values()]


def _shape(model: Model) -> str:
    return f"{model.width} numbers in and {model.output_width} out"
