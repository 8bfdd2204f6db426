"""`jobs`: durable jobs of `tiny`, beside Celery and RQ, and `mlp` beside a queue full of jobs.

All queues of jobs get a server of the same kind, empty, with `appendfsync always`: what was
accepted outlives a power cut. All have one process for the model, with one thread. Ours takes jobs
over HTTP from wrk; the others' clients are processes with the queue's own library, which talk to
the Redis-protocol server themselves.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from load_tests.measuring.closed_loop import run_wrk
from load_tests.measuring.measure import Target, closed_point, told
from load_tests.measuring.open_loop import open_point
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference
from load_tests.peers.job_peer import JOB_RECIPES, JobPeer
from load_tests.report.percentiles import Latency, latency_of
from load_tests.report.results import Check, Point, ScenarioResult, Table, merge
from load_tests.report.tables import by_role, number
from load_tests.scenarios.closed import warm_up
from load_tests.server import Encoding, Model, ServerError
from load_tests.servers import oip
from load_tests.servers.our_jobs import JobCounts, alone, job_request
from load_tests.servers.penstock import Penstock, RunningPenstock, serving
from load_tests.servers.processes import CpuMeter
from load_tests.servers.redis_server import RedisServer, redis_server
from penstock.shared.jobs.record import JobState

CLIENTS = 32
ALONE = 200
DRAIN_S = 20.0
"""Longest look at what is left when nobody submits any more."""

SHARE = 0.5
CONNECTIONS = 64
FILL = 20_000
FILL_S = 15.0
"""A replica that is stopped for much longer would be taken for hung."""

EMPTY_S = 120.0
"""Longest wait for a filled queue to be done."""

SUBMITS_BAR, COMPLETED_BAR, START_BAR_MS, P99_BAR = 1000, 1000, 10.0, 1.5

HEADER = (
    *("jobs of `tiny`", "submits/s", "submit p50 ms", "p99", "completed/s", "of those submitted"),
    *("submit to start p50 ms", "p99", "submit to result p50 ms", "CPU µs/job", "by role"),
)


@dataclass(frozen=True)
class Figures:
    """A queue of jobs under load.

    Attributes:
        submit: how long submits took, of many clients.
        cpu_us: processor time per completed job, by role; clients are not in it.
    """

    name: str
    submitted: int
    submits_per_s: float
    submit: Latency
    completed: int
    completed_per_s: float
    start: Latency
    result: Latency
    cpu_us: Mapping[str, float]

    def row(self) -> list[str]:
        """In the order of `HEADER`."""
        share = self.completed / self.submitted if self.submitted else 0.0
        return [
            *(self.name, number(self.submits_per_s)),
            *(number(self.submit.p50_ms), number(self.submit.p99_ms)),
            *(number(self.completed_per_s), f"{share:.0%}"),
            *(number(self.start.p50_ms), number(self.start.p99_ms), number(self.result.p50_ms)),
            *(number(sum(self.cpu_us.values())), by_role(self.cpu_us)),
        ]


def run_jobs(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    server_folder = session.new_folder("jobs-redis")
    server, models = Penstock(), [session.model("tiny"), session.model("mlp")]
    with redis_server(server_folder) as redis:
        ours = replace(server, environment={"PENSTOCK_REDIS_URL": redis.url})
        with (
            serving(ours, models, session.new_folder("jobs")) as running,
            closing(JobCounts(redis.url)) as counts,
        ):
            figures, failed = _ours(session, running, redis, counts)
            session.say(f"  {figures.row()}")
            points, waited = _beside_a_queue(session, running, counts, models[1])
    peers, notes = _peers(session, models[0])
    return ScenarioResult(
        name="jobs",
        about=f"{CLIENTS} clients hand in jobs for {session.duration_s:g} s, which are worked on "
        f"meanwhile and at most {DRAIN_S:g} s longer; one client with an idle system, {ALONE} "
        f"jobs in turn; calls of `mlp` at {SHARE:.0%} of its capacity, without jobs and beside a "
        "queue that is never empty.",
        points=points,
        tables=[Table("", HEADER, [each.row() for each in (figures, *peers)])],
        checks=[*_checks(figures, failed), *_interactive_checks(points, waited)],
        notes=[
            "Celery with `task_acks_late`, without which a killed worker loses its task. RQ's own "
            "worker forks a process for each job; its SimpleWorker does not. Submit to start is to "
            "the millisecond for ours, exact for the others. Processor time is per completed job, "
            "with that of submits; where not all were completed, submits weigh more.",
            *notes,
        ],
    )


def _ours(
    session: Session, running: RunningPenstock, redis: RedisServer, counts: JobCounts
) -> tuple[Figures, int]:
    """Ours, and how many jobs or submits failed."""
    model = session.model("tiny")
    samples, reference = session.samples(model), Reference(model.path)
    requests = [job_request(model.name, rows) for rows in samples]
    seen = alone(running.port, requests, ALONE)
    for job in seen:
        reference.check(samples[job.sample], job.output)
    before = counts.now().states
    meter = CpuMeter(lambda: {**running.pids(), "store": [redis.pid]})
    begin = time.monotonic()
    loop = run_wrk(running.port, requests, CLIENTS, session.duration_s)
    counts.until_done(DRAIN_S)
    took_s = time.monotonic() - begin
    after = counts.now().states
    completed = after.get(JobState.SUCCEEDED, 0) - before.get(JobState.SUCCEEDED, 0)
    submitted = sum(after.values()) - sum(before.values())  # wrk leaves without its last answers
    failed = after.get(JobState.FAILED, 0) + sum(loop.errors.values())
    figures = Figures(
        name=f"Penstock {running.version}",
        submitted=submitted,
        submits_per_s=loop.goodput_rps,
        submit=loop.latency,
        completed=completed,
        completed_per_s=completed / took_s,
        start=latency_of(np.array([job.start_ms for job in seen])),
        result=latency_of(np.array([job.result_ms for job in seen])),
        cpu_us=meter.stop().per_request_us(completed),
    )
    counts.until_done(EMPTY_S)
    return figures, failed


def _beside_a_queue(
    session: Session, running: RunningPenstock, counts: JobCounts, model: Model
) -> tuple[list[Point], int]:
    """Points without jobs and beside them; the fewest jobs that were left at a round's end."""
    samples = session.samples(model)
    requests = [oip.infer_request(model.name, Encoding.JSON, rows) for rows in samples]
    at = Target("penstock", running, model.name, Encoding.JSON, requests)
    warm_up(at)
    closed = [closed_point(at, CONNECTIONS, session.duration_s) for _ in range(session.repeats)]
    capacity = merge(closed)
    rate_rps = SHARE * capacity.goodput_rps
    load = f"{SHARE:.0%} = {rate_rps:.0f}/s"
    rounds: tuple[list[Point], list[Point]] = ([], [])
    left = FILL
    for seed in range(1, session.repeats + 1):
        rounds[0].append(open_point(at, rate_rps, session.duration_s, load=load, seed=seed))
        with stopped(running.pids()["replica"]):  # else it would be empty as soon as it is full
            counts.fill(model.name, samples, FILL, FILL_S)
        running.until_answered(model)
        beside = f"{load} beside jobs"
        rounds[1].append(open_point(at, rate_rps, session.duration_s, load=beside, seed=seed))
        left = min(left, counts.now().states.get(JobState.QUEUED, 0))
        for points in rounds:
            session.say(told(points[-1]))
        counts.until_done(EMPTY_S)
    return [capacity, *map(merge, rounds)], left


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Processes stand still for as long as the block lasts."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _peers(session: Session, model: Model) -> tuple[list[Figures], list[str]]:
    """Each of the others, and why those that are missing are missing."""
    figures, notes = [], []
    for recipe in JOB_RECIPES:
        peer = JobPeer(recipe)
        try:
            figures.append(_peer(session, peer, model))
            session.say(f"  {figures[-1].row()}")
        except ServerError as error:
            notes.append(f"{recipe.name} is missing: {error}")
            session.say(f"  {notes[-1]}")
    return figures, notes


def _peer(session: Session, peer: JobPeer, model: Model) -> Figures:
    samples, reference = session.samples(model), Reference(model.path)
    folder = session.new_folder("job-peer")
    with redis_server(folder) as redis, peer.working(model, redis.url, folder) as working:
        seen = working.alone(samples, ALONE)
        for _, _, sample, output in seen:
            reference.check(samples[sample], np.array(output, np.float32))
        meter = CpuMeter(lambda: {**working.pids(), "store": [redis.pid]})
        found = working.crowd(samples, CLIENTS, session.duration_s, DRAIN_S)
        cpu = meter.stop()
    submit_ms = found["submit_ms"]
    return Figures(
        name=peer.name,
        submitted=len(submit_ms),
        submits_per_s=len(submit_ms) / found["submitted_s"],
        submit=latency_of(np.array(submit_ms)),
        completed=found["completed"],
        completed_per_s=found["completed"] / found["completed_s"],
        start=latency_of(np.array([start_ms for start_ms, *_ in seen])),
        result=latency_of(np.array([result_ms for _, result_ms, *_ in seen])),
        cpu_us=cpu.per_request_us(found["completed"]),
    )


def _checks(ours: Figures, failed: int) -> Sequence[Check]:
    return [
        Check("submits per second", number(ours.submits_per_s), ours.submits_per_s >= SUBMITS_BAR),
        Check(
            "completed jobs per second",
            number(ours.completed_per_s),
            ours.completed_per_s >= COMPLETED_BAR,
        ),
        Check(
            "submit to start with an idle replica, p50",
            f"{ours.start.p50_ms:.1f} ms",
            ours.start.p50_ms <= START_BAR_MS,
        ),
        Check("jobs and submits that failed", str(failed), failed == 0),
    ]


def _interactive_checks(points: Sequence[Point], left: int) -> Sequence[Check]:
    _, without, beside = points
    void = without.void or beside.void
    failed = without.failed + beside.failed
    if not void and failed:
        void = "calls failed"
    ratio = beside.latency.p99_ms / without.latency.p99_ms
    return [
        Check(
            f"p99 of `mlp` at {SHARE:.0%} beside a queue of its jobs",
            void or f"{ratio:.2f} x that without",
            None if void else ratio <= P99_BAR,
        ),
        Check("jobs that still waited at the end of each round", f"at least {left}", left > 0),
        Check("calls that failed", str(failed), failed == 0),
    ]
