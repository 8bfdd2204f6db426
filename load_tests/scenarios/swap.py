"""`swap`: version 1 to 2 and back by tags, under load that does not wait.

An open loop, so that a pause at a flip would be seen by all who came meanwhile. Every answer is
compared with what the version that it names says to that input.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from load_tests.generator.http_wire import request_bytes
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.measuring.kept_answers import check_answers
from load_tests.measuring.measure import closed_point, target, told
from load_tests.measuring.open_loop import Generator, generating, point_of
from load_tests.measuring.session import WARM_UP_S, Session
from load_tests.models.reference import Reference
from load_tests.models.small import make_model
from load_tests.report.percentiles import percentile
from load_tests.report.results import Check, Point, ScenarioResult, Table
from load_tests.report.tables import number
from load_tests.scenarios.closed import WARM_UP_CONNECTIONS
from load_tests.server import Encoding, HttpRequest, Model, ServerError
from load_tests.servers.oip import version_of
from load_tests.servers.penstock import Penstock, RunningPenstock, serving
from load_tests.servers.processes import CpuMeter
from load_tests.servers.verification import post

MODEL = "tiny"
SHARE = 0.3
"""Of the capacity: loading a version takes a core for a second, and cores are few."""

RATE_RPS_MAX = 3000.0
QUICK = {"PENSTOCK_POLL_INTERVAL_S": "0.2", "PENSTOCK_FOLDER_SETTLE_S": "0.2"}
"""Tags are seen sooner than by default, so that a run is short. A flip is the same."""

QUIET_S = 2.0
"""Before, between and after the two flips; a second of it is what they are compared with."""

LOAD_S = 20.0
FLIP_TIMEOUT_S = 15.0
POLL_S = 0.05
STABLE, OFF = "penstock.role: stable\n", "penstock.role: 'off'\n"


@dataclass(frozen=True)
class Flip:
    """One swap as the answers show it; seconds from the beginning of the load.

    Attributes:
        tagged_s: when the tag was written.
        first_s: when the first answer of the new version came.
        overlap_s: for how long answers of the old one came after that.
    """

    to: str
    tagged_s: float
    first_s: float
    overlap_s: float
    p99_before_ms: float
    p99_after_ms: float
    max_after_ms: float


def run_swap(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    folder = session.folder / "swap-models"
    model, second = make_model(folder, MODEL, 1), make_model(folder, MODEL, 2)
    (model.path.parent / "tags.yaml").write_text(STABLE)
    (second.path.parent / "tags.yaml").write_text(OFF)
    with serving(Penstock(environment=QUICK), [model], session.new_folder("swap")) as running:
        point, outcomes, tagged = _load(session, running, model)
    session.say(told(point))
    references = {"1": Reference(model.path), "2": Reference(second.path)}
    inputs = list(session.samples(model))
    versions = check_answers(outcomes, inputs, [references] * len(inputs))
    by_request = np.array([*versions, ""])[outcomes.answer]
    flips = [flip_of(outcomes, by_request, to, at) for to, at in tagged]
    return ScenarioResult(
        name="swap",
        about=f"Version 1 to 2 and back by `tags.yaml`, at about {SHARE:.0%} of the capacity.",
        points=[point],
        tables=[] if point.void else [flips_table(flips)],
        checks=[
            Check("failed requests", str(point.failed), point.failed == 0),
            Check(
                "answers compared with what the version they name says",
                ", ".join(f"{(by_request == v).sum()} of version {v}" for v in references),
                all((by_request == v).any() for v in references),
            ),
            Check(
                "p99 in the second after a flip",
                point.void or ", ".join(f"{number(flip.p99_after_ms)} ms" for flip in flips),
            ),
        ],
    )


def _load(
    session: Session, running: RunningPenstock, model: Model
) -> tuple[Point, Outcomes, list[tuple[str, float]]]:
    """Load, and swap meanwhile; also returns which version was tagged when."""
    at = target("penstock", running, model, Encoding.JSON, session.samples(model))
    capacity = closed_point(at, WARM_UP_CONNECTIONS, WARM_UP_S)
    plan = LoadPlan(
        port=running.port,
        requests=[request_bytes(request) for request in at.requests],
        duration_s=LOAD_S,
        rate_rps=min(SHARE * capacity.goodput_rps, RATE_RPS_MAX),
        keep_answers=True,
    )
    meter = CpuMeter(running.pids)
    with generating(plan) as generator:
        tagged = _swap_twice(session, running, generator, at.requests[0])
        outcomes = generator.outcomes()
    point = point_of(at, plan, outcomes, meter, f"{plan.rate_rps:.0f}/s, two swaps")
    return point, outcomes, [(to, when - outcomes.began_at) for to, when in tagged]


def _swap_twice(
    session: Session, running: RunningPenstock, generator: Generator, probe: HttpRequest
) -> list[tuple[str, float]]:
    tags = running.models_dir / MODEL / "2" / "tags.yaml"
    tagged = []
    time.sleep(QUIET_S)
    for to, text in (("2", STABLE), ("1", OFF)):
        time.sleep(QUIET_S)
        tagged.append((to, time.monotonic()))
        replace_tags(tags, text)
        until_version(running, generator, probe, to, FLIP_TIMEOUT_S)
        session.say(f"  version {to} answers after {time.monotonic() - tagged[-1][1]:.1f} s")
    return tagged


def replace_tags(path: Path, text: str) -> None:
    """As an operator should: nobody sees half a file."""
    fresh = path.with_name(".tags")
    fresh.write_text(text)
    fresh.replace(path)


def until_version(
    running: RunningPenstock,
    generator: Generator,
    probe: HttpRequest,
    version: str,
    timeout_s: float,
) -> None:
    """Ask again and again until a version answers.

    Raises:
        ServerError: if it does not in time, or the load ended before.
    """
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up and generator.process.poll() is None:
        status, headers, body = post(running.port, probe)
        if status == 200 and version_of(headers, body) == version:
            return
        time.sleep(POLL_S)
    raise ServerError(f"version {version} did not answer in {timeout_s:.0f} s")


def flip_of(outcomes: Outcomes, versions: NDArray[np.str_], to: str, tagged_s: float) -> Flip:
    """One swap, of which answers came; `versions` is the version of each."""
    after = outcomes.ended_s > tagged_s
    news = outcomes.ended_s[after & (versions == to)]
    first_s = float(news.min())
    within = outcomes.ended_s < first_s + QUIET_S
    old = outcomes.ended_s[after & within & (versions != to) & (versions != "")]
    sent = outcomes.intended_s
    next_second = outcomes.latency_ms[outcomes.ok & (sent >= first_s) & (sent < first_s + 1)]
    quiet = outcomes.latency_ms[outcomes.ok & (sent >= tagged_s - 1) & (sent < tagged_s)]
    return Flip(
        to=to,
        tagged_s=tagged_s,
        first_s=first_s,
        overlap_s=max(0.0, float(old.max(initial=0.0)) - first_s),
        p99_before_ms=percentile(quiet, 99),
        p99_after_ms=percentile(next_second, 99),
        max_after_ms=float(next_second.max(initial=0.0)),
    )


def flips_table(flips: Sequence[Flip]) -> Table:
    """Swaps side by side."""
    header = (
        *("to version", "tag to first answer, s", "both answered for, ms"),
        *(
            "p99 in the second before the tag, ms",
            "p99 in the second after the flip, ms",
            "max, ms",
        ),
    )
    rows = [
        [
            *(flip.to, f"{flip.first_s - flip.tagged_s:.1f}", f"{flip.overlap_s * 1000:.1f}"),
            *map(number, (flip.p99_before_ms, flip.p99_after_ms, flip.max_after_ms)),
        ]
        for flip in flips
    ]
    return Table("Flips", header, rows)
