"""`image`: 600 kB of tensor in each request and a model that costs next to nothing.

What is measured is how often a byte is touched on its way from the client into the model.
"""

from __future__ import annotations

import time

from load_tests.measuring.measure import closed_point, target, told
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference
from load_tests.models.small import IMAGE_SHAPE, make_image_model
from load_tests.report.results import Check, Point, ScenarioResult, Table, merge
from load_tests.report.tables import number
from load_tests.server import Encoding
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.replica_metrics import copied_bytes
from load_tests.servers.verification import verify

CONCURRENCIES = (1, 16)
HEARTBEAT_S = 1.5
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
        copied = []
        for connections in CONCURRENCIES:
            rounds, before = [], copied_bytes(running.metrics())
            for _ in range(session.repeats):
                rounds.append(closed_point(at, connections, session.duration_s))
                session.say(told(rounds[-1]))
            points.append(merge(rounds))
            time.sleep(HEARTBEAT_S)  # the replica's counters come with its heartbeats
            answered = sum(point.answered for point in rounds)
            after = copied_bytes(running.metrics())
            copied.append([(b - a) / answered for a, b in zip(before, after, strict=True)])
        verified += verify(running, Encoding.BINARY, samples, reference)
    shape = "x".join(map(str, (1, *IMAGE_SHAPE)))
    return ScenarioResult(
        name="image",
        about=f"FP32 tensors of {shape} in binary, the mean of each channel out.",
        points=points,
        tables=[_bytes(points, len(at.requests[0].body), copied)],
        checks=[
            Check("answers compared with ONNX Runtime, before and after", str(verified), True),
            Check("failed requests", str(failed := sum(p.failed for p in points)), failed == 0),
        ],
    )


def _bytes(points: list[Point], body_bytes: int, copied: list[list[float]]) -> Table:
    rows = []
    for point, (bodies, messages, replica) in zip(points, copied, strict=True):
        mb_s = point.goodput_rps * body_bytes / MB
        us_per_mb = point.cpu_us_all / (body_bytes / MB)
        shares = [f"{each / body_bytes:.2f}" for each in (bodies, messages, replica)]
        rows.append([point.load, number(mb_s), number(us_per_mb), *shares])
    title = f"By bytes; copied in bytes of a body ({body_bytes:,}), by our own code"
    columns = ("load", "MB/s", "CPU µs/MB", "copied: body", "messages", "replica")
    return Table(title, columns, rows)
