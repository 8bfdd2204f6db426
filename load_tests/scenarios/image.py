"""`image`: 600 kB of tensor in each request and a model that costs next to nothing.

What is measured is how often a byte is touched on its way from the client into the model.
"""

from __future__ import annotations

from load_tests.measure import closed_point, target, told
from load_tests.models import IMAGE_SHAPE, make_image_model
from load_tests.penstock import Penstock, serving
from load_tests.reference import Reference
from load_tests.results import Check, Point, ScenarioResult, Table, merge
from load_tests.server import Encoding
from load_tests.session import Session
from load_tests.tables import number
from load_tests.verification import verify

CONCURRENCIES = (1, 16)
MB = 1e6


def run_image(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    server, model = Penstock(), make_image_model(session.folder / "models")
    samples = [rows.reshape(1, *IMAGE_SHAPE) for rows in session.samples(model)]
    reference, points = Reference(model.path), []
    with serving(server, [model], session.new_folder("image")) as running:
        verified = verify(running, Encoding.BINARY, samples, reference)
        at = target(server.name, running, model, Encoding.BINARY, samples)
        closed_point(at, CONCURRENCIES[-1], 1.0)
        for connections in CONCURRENCIES:
            rounds = []
            for _ in range(session.repeats):
                rounds.append(closed_point(at, connections, session.duration_s))
                session.say(told(rounds[-1]))
            points.append(merge(rounds))
        verified += verify(running, Encoding.BINARY, samples, reference)
    shape = "x".join(map(str, (1, *IMAGE_SHAPE)))
    return ScenarioResult(
        name="image",
        about=f"FP32 tensors of {shape} in binary, the mean of each channel out.",
        points=points,
        tables=[_bytes(points, len(at.requests[0].body))],
        checks=[
            Check("answers compared with ONNX Runtime, before and after", str(verified), True),
            Check("failed requests", str(failed := sum(p.failed for p in points)), failed == 0),
        ],
    )


def _bytes(points: list[Point], body_bytes: int) -> Table:
    rows = []
    for point in points:
        mb_s = point.goodput_rps * body_bytes / MB
        us_per_mb = point.cpu_us_all / (body_bytes / MB)
        rows.append([point.load, number(mb_s), number(us_per_mb)])
    return Table("By bytes", ("load", "MB/s", "CPU µs/MB"), rows)
