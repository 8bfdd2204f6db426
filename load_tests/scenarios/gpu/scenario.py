"""`gpu`: a convolutional network and a transformer, against torch alone on the same device.

A GPU is kept busy by batches that follow each other closely. The bar is torch in a process without
a server, at its best batch size; rounds of both are in turn, since a GPU slows down when it is hot.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from load_tests.measuring.measure import Target, closed_point, told
from load_tests.measuring.open_loop import open_point
from load_tests.measuring.session import Session
from load_tests.models.right_answers import RightAnswers
from load_tests.models.torch_alone import Speed, TorchAlone, batch_of, best_batch, limit_of_ours
from load_tests.models.torch_export import write_version
from load_tests.models.torch_networks import make_network, parameters_count
from load_tests.report.ratios import Ratio, ratio_of
from load_tests.report.results import Check, Point, ScenarioResult, Table, merge
from load_tests.report.tables import number
from load_tests.scenarios.gpu.cases import (
    PLANS,
    Case,
    Plan,
    chosen_cases,
    chosen_device,
    describe_device,
)
from load_tests.scenarios.gpu.swap import NEW, OLD, swap_under_load
from load_tests.scenarios.swap import OFF, QUICK, STABLE, Flip, flips_table
from load_tests.server import Encoding, Inputs, Model, ServerError
from load_tests.servers import oip
from load_tests.servers.penstock import Penstock, RunningPenstock
from load_tests.servers.replica_metrics import Executed, executed
from load_tests.servers.verification import verify_requests

CPU_THREADS = 1
"""Of torch alone, if it is on a CPU: as many as a replica has here."""

RATIO_MIN = 0.9
SHARE = 0.8
SWAP_SHARE = 0.5
"""Of the capacity: while a version loads and warms up, the device is shared."""

METRICS_LATE_S = 1.0
"""What replicas executed is known with their next heartbeat."""

CORES_PER_GATEWAY = 4
GATEWAYS_MAX = 4
WRK_THREADS_MAX = 4
"""Images are large: with the cores that a machine with a GPU has, neither the one gateway nor the
one thread of clients of other scenarios is to be what is measured."""


@dataclass(frozen=True)
class Prepared:
    """A case whose versions are written, and what is right."""

    case: Case
    model: Model
    samples: Sequence[Inputs]
    alone: TorchAlone
    right: Mapping[str, RightAnswers]
    parameters: int


@dataclass
class Closed:
    """Rounds of ours by concurrency, of torch alone, and the batches of ours."""

    ours: dict[int, list[Point]] = field(default_factory=dict)
    alone: list[Speed] = field(default_factory=list)
    batches: dict[int, Executed] = field(default_factory=dict)

    def best(self) -> Point:
        """The concurrency with the most answers per second."""
        return max(map(merge, self.ours.values()), key=lambda point: point.goodput_rps)

    def ratio(self) -> Ratio | None:
        """Ours at its best by torch alone, copies included."""
        rounds = [point.goodput_rps for point in self.ours[self.best().connections]]
        return ratio_of(rounds, [speed.copied for speed in self.alone])


@dataclass
class Found:
    """What is known of all cases so far."""

    points: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    ratios: list[list[str]] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    sweeps: list[list[str]] = field(default_factory=list)
    flips: list[tuple[str, Flip]] = field(default_factory=list)


def run_gpu(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    device = chosen_device(session.device, session.size, torch.cuda.device_count())
    cases = chosen_cases(session.models, session.size)
    plan, where, found = PLANS[session.size], describe_device(device), Found()
    session.say(f"  on {where}; PyTorch {torch.__version__}")
    if device == "cpu":
        torch.set_num_threads(CPU_THREADS)
    for case in cases:
        try:
            _run_case(session, case, plan, device, found)
        # PyTorch's own are RuntimeErrors. What the other cases found out is not lost with it.
        except (ServerError, RuntimeError) as error:
            session.say(f"  {case.name} failed: {error}")
            found.checks.append(Check(f"`{case.name}` ran to its end", str(error), held=False))
    return ScenarioResult(
        name="gpu",
        about=f"On **{where}**, PyTorch {torch.__version__}; binary tensors, one row a request; "
        f"{_gateways()} gateway(s), one replica, batches as large as pay for torch alone. Open "
        f"loop: Poisson arrivals at {SHARE:.0%} of the best closed loop.",
        points=found.points,
        checks=found.checks,
        tables=_tables(found, plan, where),
        notes=_notes(device),
    )


def _run_case(session: Session, case: Case, plan: Plan, device: str, found: Found) -> None:
    session.say(f"  {case.name}: exporting two versions")
    prepared = _prepare(session, case, device)
    speeds = {
        rows: prepared.alone.speed(prepared.samples, rows, plan.alone_s) for rows in plan.batches
    }
    found.sweeps.append([case.name, *(number(speed.copied) for speed in speeds.values())])
    limit = limit_of_ours(speeds, plan.concurrencies[-1])
    session.say(f"  {case.name}: torch alone is best at {best_batch(speeds)} rows; ours: {limit}")
    with _serving(session, prepared, device, limit) as (running, at):
        found.checks.append(_device_check(case, running, device))
        verified = _verify(prepared, at, OLD)
        if plan.warm_up_s:
            _closed(at, plan.concurrencies[-1], plan.warm_up_s)
        closed = _measure(session, prepared, at, running, plan, best_batch(speeds))
        _note_closed(prepared, closed, best_batch(speeds), limit, device, found)
        found.points.append(_open(session, at, closed.best().goodput_rps))
        verified += _verify(prepared, at, OLD)
        found.checks.append(_failures(case, closed, found.points[-1], verified))
        if case.swapped:
            _swap(session, prepared, at, running, closed.best().goodput_rps, plan, found)


def _swap(
    session: Session,
    prepared: Prepared,
    at: Target,
    running: RunningPenstock,
    capacity_rps: float,
    plan: Plan,
    found: Found,
) -> None:
    rate_rps = min(SWAP_SHARE * capacity_rps, plan.swap_rps_max)
    swapped = swap_under_load(session, at, running, rate_rps, plan.swap_s, prepared.right)
    found.points.append(swapped.point)
    found.checks.append(swapped.check)
    if swapped.flip is not None:
        found.flips.append((at.model, swapped.flip))


def _prepare(session: Session, case: Case, device: str) -> Prepared:
    """Make both versions, export them, and have torch answer the samples."""
    samples, folder = case.samples(), session.new_folder(case.name) / case.name
    all_samples = torch.from_numpy(batch_of(samples, len(samples)))
    right, paths, networks = {}, {}, {}
    for version, tag in ((NEW, OFF), (OLD, STABLE)):
        module = make_network(case.size, case.dtype, int(version), all_samples)
        row = TorchAlone(module, "cpu").run(samples[0])
        paths[version] = write_version(folder / version, module, samples[0], row)
        (folder / version / "tags.yaml").write_text(tag)
        networks[version] = TorchAlone(module, device)
        right[version] = networks[version].right_answers(samples, case.tolerance)
    model = Model(case.name, paths[OLD], samples[0][0].size, row.shape[1])
    return Prepared(case, model, samples, networks[OLD], right, parameters_count(module))


@contextmanager
def _serving(
    session: Session, prepared: Prepared, device: str, limit: int
) -> Iterator[tuple[RunningPenstock, Target]]:
    """Our server with one model on the device, for as long as the block lasts."""
    server = Penstock(
        gateways=_gateways(),
        environment=QUICK,
        tags={"penstock.device": device, "penstock.max_batch_size": limit},
    )
    name, work_dir = prepared.model.name, session.new_folder(f"{prepared.model.name}-served")
    requests = [oip.infer_request(name, Encoding.BINARY, rows) for rows in prepared.samples]
    server.put(prepared.model, work_dir)
    running = server.launch(prepared.model, work_dir)
    try:
        running.until_accepted(requests[0])
        yield running, Target(server.name, running, name, Encoding.BINARY, requests)
    finally:
        running.stop()


def _measure(
    session: Session,
    prepared: Prepared,
    at: Target,
    running: RunningPenstock,
    plan: Plan,
    best_rows: int,
) -> Closed:
    """Rounds of torch alone and of ours, in turn; repeats are the outer loop."""
    closed, alone_s = Closed(), min(session.duration_s, 4 * plan.alone_s)
    before = _executed(running, at)
    for _ in range(session.repeats):
        closed.alone.append(prepared.alone.speed(prepared.samples, best_rows, alone_s))
        session.say(f"  torch alone {at.model}: {number(closed.alone[-1].copied)} rows/s")
        for connections in plan.concurrencies:
            point = _closed(at, connections, session.duration_s)
            session.say(told(point))
            closed.ours.setdefault(connections, []).append(point)
            after = _executed(running, at)
            closed.batches[connections], before = after.since(before), after
    return closed


def _executed(running: RunningPenstock, at: Target) -> Executed:
    time.sleep(METRICS_LATE_S)
    return executed(running.metrics(), at.model)


def _closed(at: Target, connections: int, duration_s: float) -> Point:
    threads = min(connections, WRK_THREADS_MAX, max(1, _cores() // CORES_PER_GATEWAY))
    return closed_point(at, connections, duration_s, threads=threads)


def _open(session: Session, at: Target, capacity_rps: float) -> Point:
    rate_rps = SHARE * capacity_rps
    label, runs = f"{SHARE:.0%} = {rate_rps:.0f}/s", []
    for seed in range(1, session.repeats + 1):
        runs.append(open_point(at, rate_rps, session.duration_s, load=label, seed=seed))
        session.say(told(runs[-1]))
    return merge(runs)


def _verify(prepared: Prepared, at: Target, version: str) -> int:
    right = prepared.right[version]

    def check(index: int, headers: Mapping[str, str], body: bytes) -> None:
        right.check(index, oip.infer_answer(headers, body))

    return verify_requests(at.running.port, at.requests, check)


def _device_check(case: Case, running: RunningPenstock, device: str) -> Check:
    """Whether the replica runs where it should: a figure from elsewhere would be worse than none.

    Raises:
        ServerError: if it does not.
    """
    logs = [log.read_text(errors="replace") for log in running.logs_dir.glob("*.log")]
    providers = sorted(set(replica_providers("\n".join(logs))))
    if providers != [f"torch {device}"]:
        raise ServerError(f"the replica is to run on torch {device}, and says: {providers}")
    return Check(f"`{case.name}`: the replica says where it runs", providers[0], held=True)


def replica_providers(logs: str) -> Iterator[str]:
    """What executes each replica that got ready, as its log says."""
    for line in logs.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a traceback, or half a line
        if isinstance(entry, dict) and entry.get("event") == "ready" and "provider" in entry:
            yield str(entry["provider"])


def _note_closed(
    prepared: Prepared, closed: Closed, best_rows: int, limit: int, device: str, found: Found
) -> None:
    case, best, ratio = prepared.case, closed.best(), closed.ratio()
    found.points += [merge(points) for points in closed.ours.values()]
    found.batches += [
        [case.name, f"c={connections}", str(batches)]
        for connections, batches in closed.batches.items()
    ]
    resident = ratio_of([best.goodput_rps], [max(speed.resident for speed in closed.alone)])
    found.ratios.append(
        [
            *(case.name, number(prepared.parameters / 1e6)),
            *(best.load, str(limit), number(best.goodput_rps), str(best_rows)),
            number(max(speed.copied for speed in closed.alone)),
            *(str(ratio or "-"), f"{resident.of_medians:.2f}" if resident else "-"),
        ]
    )
    found.checks.append(ratio_check(case.name, device, ratio))


def ratio_check(name: str, device: str, ratio: Ratio | None) -> Check:
    """Ours by torch alone; of a CPU it is no more than a record."""
    held = None if device == "cpu" or ratio is None else ratio.of_medians >= RATIO_MIN
    what = f"`{name}` on {device}: ours by torch alone at its best batch, at least {RATIO_MIN}"
    return Check(what, f"{ratio.of_medians:.2f}" if ratio else "nothing to compare", held)


def _failures(case: Case, closed: Closed, opened: Point, verified: int) -> Check:
    points = [*map(merge, closed.ours.values()), opened]
    failed = sum(point.failed for point in points)
    what = f"`{case.name}`: failed requests; answers compared with torch, before and after"
    return Check(what, f"{failed}; {verified}", failed == 0)


def _tables(found: Found, plan: Plan, where: str) -> list[Table]:
    tables = [
        Table(
            f"Ours beside torch alone on {where}",
            (
                *("model", "million parameters", "ours at", "max batch", "req/s"),
                *("torch at a batch of", "rows/s", "ratio (quartiles; min..max)"),
                "ratio to inputs that are on the device",
            ),
            found.ratios,
        ),
        Table("Batches of ours, last repeat", ("model", "load", "batches"), found.batches),
    ]
    if found.sweeps:
        sizes = map(str, plan.batches)
        title = f"Rows/s of torch alone on {where}, by batch size"
        tables.append(Table(title, ("model", *sizes), found.sweeps))
    if found.flips:
        flips = flips_table([flip for _, flip in found.flips])
        rows = [[name, *row] for (name, _), row in zip(found.flips, flips.rows, strict=True)]
        tables.append(Table(flips.title, ("model", *flips.header), rows))
    return tables


def _notes(device: str) -> list[str]:
    if device != "cpu":
        return []
    return [
        "**From a CPU**, with small models: this shows that the scenario works. Its throughputs, "
        "latencies and ratios say nothing of a GPU."
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _gateways() -> int:
    return max(1, min(GATEWAYS_MAX, _cores() // CORES_PER_GATEWAY))
