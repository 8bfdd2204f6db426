"""The swap of the GPU scenario: version 1 to 2 under a fixed load, each answer verified."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from load_tests.generator.http_wire import request_bytes
from load_tests.generator.load_plan import LoadPlan
from load_tests.measuring.kept_answers import check_kept
from load_tests.measuring.measure import Target, told
from load_tests.measuring.open_loop import generating, point_of
from load_tests.measuring.session import Session
from load_tests.models.right_answers import RightAnswers
from load_tests.report.results import Check, Point
from load_tests.scenarios.swap import (
    QUIET_S,
    STABLE,
    Flip,
    flip_of,
    replace_tags,
    until_version,
)
from load_tests.server import Rows
from load_tests.servers.penstock import RunningPenstock
from load_tests.servers.processes import CpuMeter

OLD, NEW = "1", "2"


@dataclass(frozen=True)
class Swapped:
    """What came of one.

    Attributes:
        flip: None if the generator was late, so that its times say nothing.
    """

    point: Point
    flip: Flip | None
    check: Check


def swap_under_load(
    session: Session,
    at: Target,
    running: RunningPenstock,
    rate_rps: float,
    load_s: float,
    right: Mapping[str, RightAnswers],
) -> Swapped:
    """Name the new version stable in the middle of a load.

    Args:
        right: by version.

    Raises:
        ServerError: if the new version does not answer in time, or an answer is wrong.
    """
    plan = LoadPlan(
        port=running.port,
        requests=[request_bytes(request) for request in at.requests],
        duration_s=load_s,
        rate_rps=rate_rps,
        keep_answers=True,
    )
    tags = running.models_dir / at.model / NEW / "tags.yaml"
    meter = CpuMeter(running.pids)
    with generating(plan) as generator:
        time.sleep(QUIET_S)
        tagged_at = time.monotonic()
        replace_tags(tags, STABLE)
        until_version(running, generator, at.requests[0], NEW, load_s - QUIET_S)
        outcomes = generator.outcomes()
    point = point_of(at, plan, outcomes, meter, f"{plan.rate_rps:.0f}/s, a swap")
    session.say(told(point))

    def check(request: int, version: str, answer: Rows) -> None:
        right[version].check(request, answer)

    versions = np.array([*check_kept(outcomes, check), ""])[outcomes.answer]
    counts = {version: int((versions == version).sum()) for version in (OLD, NEW)}
    flip = None if point.void else flip_of(outcomes, versions, NEW, tagged_at - outcomes.began_at)
    told_counts = " and ".join(f"{counts[version]} of version {version}" for version in counts)
    return Swapped(
        point,
        flip,
        Check(
            f"`{at.model}`: a swap under load, each answer compared with its version's",
            f"{point.failed} failed; {told_counts} are right",
            held=point.failed == 0 and all(counts.values()),
        ),
    )
