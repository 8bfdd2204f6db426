"""`scale`: two gateways, with one replica and with two, against one of each.

A system that scales pays the same processor time for a request however many processes share the
work. With twice the processes come twice the clients, so that each process has the same to do;
the same clients for more processes are measured too, for the record: batches are smaller then.
"""

from __future__ import annotations

from contextlib import ExitStack

from load_tests.measuring.measure import Target, closed_point, target, told
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference
from load_tests.report.ratios import Ratio, ratio_of
from load_tests.report.results import Check, Point, ScenarioResult, merge
from load_tests.scenarios.closed import warm_up
from load_tests.server import Encoding
from load_tests.servers.penstock import Penstock, serving
from load_tests.servers.verification import verify

CLIENTS = 64
TIMES = 2
TOLERANCE = 0.10


def run_scale(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    model, points = session.model("tiny"), []
    samples, reference = session.samples(model), Reference(model.path)
    one = Penstock(name="1 x 1")
    wider = Penstock(name=f"{TIMES} x 1", gateways=TIMES)
    more = Penstock(name=f"{TIMES} x {TIMES}", gateways=TIMES, replicas=TIMES)
    targets: dict[str, Target] = {}
    with ExitStack() as stack:
        for server in (one, wider, more):
            folder = session.new_folder(server.name)
            running = stack.enter_context(serving(server, [model], folder))
            verify(running, Encoding.JSON, samples, reference)
            targets[server.name] = target(server.name, running, model, Encoding.JSON, samples)
            warm_up(targets[server.name])
        loads = [(one, CLIENTS), (wider, CLIENTS * TIMES), (more, CLIENTS * TIMES), (more, CLIENTS)]
        rounds: list[list[Point]] = [[] for _ in loads]
        for _ in range(session.repeats):
            for (server, clients), taken in zip(loads, rounds, strict=True):
                taken.append(closed_point(targets[server.name], clients, session.duration_s))
                session.say(told(taken[-1]))
        for each in targets.values():
            verify(each.running, Encoding.JSON, samples, reference)
    points = [merge(taken) for taken in rounds]
    wide, both, same = (
        ratio_of([p.cpu_us_all for p in taken], [p.cpu_us_all for p in rounds[0]])
        for taken in rounds[1:]
    )
    return ScenarioResult(
        name="scale",
        about="Gateways x replicas on `tiny`, measured in turn; JSON. On few cores throughput "
        "cannot grow; processor time per request is what tells.",
        points=points,
        checks=[
            Check(
                f"processor time per request, {wider.name} by {one.name}, as many clients each",
                str(wide or "-"),
                _within(wide),
            ),
            Check(f"the same, {more.name} by {one.name}", str(both or "-")),
            Check("the latter with the same clients in all", str(same or "-")),
            Check("failed requests", str(failed := sum(p.failed for p in points)), failed == 0),
        ],
    )


def _within(ratio: Ratio | None) -> bool | None:
    return None if ratio is None else abs(ratio.of_medians - 1) <= TOLERANCE
