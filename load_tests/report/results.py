"""What a run found out; plain data, pure.

A `Point` is one load on one server. Several of the same are merged into one of medians, which
keeps the spread of the figure that people compare first, the throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from load_tests.report.machine import Machine
from load_tests.report.percentiles import NAN, Latency


@dataclass(frozen=True)
class Point:
    """One load on one server.

    Attributes:
        load: for people, as in `c=64` or `80% = 1200/s`.
        connections: of the clients; of an open loop, the most that it may open.
        offered_rps: what an open loop sent; 0 of a closed loop, which sends what is answered.
        answered: requests that got a 200 within the run.
        goodput_rps: those per second; `goodput_min` and `goodput_max` over the repeats.
        errors: requests that got none, by kind.
        cpu_us: processor time per answered request, by role of the server's processes.
        pss_mib: memory at the end, by role; pages that are shared count once in all.
        others_cores: processors that were busy with neither the server nor the clients. Much of it
            says that the machine was not ours alone.
        lag_p99_ms: how late the open loop's generator was itself.
        void: why this is no measurement; empty if it is one.
    """

    server: str
    model: str
    encoding: str
    load: str
    connections: int
    duration_s: float
    answered: int
    goodput_rps: float
    latency: Latency
    errors: Mapping[str, int] = field(default_factory=dict)
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    pss_mib: Mapping[str, float] = field(default_factory=dict)
    others_cores: float = NAN
    offered_rps: float = 0.0
    lag_p99_ms: float = NAN
    void: str = ""
    repeats: int = 1
    goodput_min: float = NAN
    goodput_max: float = NAN

    @property
    def cpu_us_all(self) -> float:
        """Processor time per request of all processes."""
        return sum(self.cpu_us.values())

    @property
    def pss_mib_all(self) -> float:
        """Memory of all processes."""
        return sum(self.pss_mib.values())

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(self.errors.values())


@dataclass(frozen=True)
class Check:
    """Something that a scenario is to show.

    Attributes:
        held: None if there is no bar, or nothing to compare.
    """

    what: str
    figure: str
    held: bool | None = None


@dataclass(frozen=True)
class Table:
    """Figures that are no points."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ScenarioResult:
    """What one scenario found out."""

    name: str
    about: str
    points: Sequence[Point] = ()
    checks: Sequence[Check] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    took_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """A whole run."""

    title: str
    command: str
    machine: Machine
    scenarios: Sequence[ScenarioResult]


def merge(points: Sequence[Point]) -> Point:
    """One point of the medians of several of the same; those that are void count only if all are.

    Errors are added up: one that happened once did happen.
    """
    valid = [point for point in points if not point.void] or list(points)
    goodputs = [point.goodput_rps for point in valid]

    def middle(figure: Callable[[Point], float]) -> float:
        return median(figure(point) for point in valid)

    return replace(
        valid[0],
        answered=sum(point.answered for point in valid),
        duration_s=sum(point.duration_s for point in valid),
        goodput_rps=median(goodputs),
        goodput_min=min(goodputs),
        goodput_max=max(goodputs),
        latency=_merge_latency([point.latency for point in valid]),
        errors=_added([point.errors for point in points]),
        cpu_us=_medians([point.cpu_us for point in valid]),
        pss_mib=_medians([point.pss_mib for point in valid]),
        others_cores=middle(lambda point: point.others_cores),
        lag_p99_ms=middle(lambda point: point.lag_p99_ms),
        repeats=len(points),
    )


def _merge_latency(latencies: Sequence[Latency]) -> Latency:
    return Latency(
        p50_ms=median(latency.p50_ms for latency in latencies),
        p90_ms=median(latency.p90_ms for latency in latencies),
        p99_ms=median(latency.p99_ms for latency in latencies),
        p999_ms=median(latency.p999_ms for latency in latencies),
        max_ms=max(latency.max_ms for latency in latencies),
    )


def _added(errors: Sequence[Mapping[str, int]]) -> dict[str, int]:
    kinds = dict.fromkeys(kind for each in errors for kind in each)
    return {kind: sum(each.get(kind, 0) for each in errors) for kind in kinds}


def _medians(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    roles = dict.fromkeys(role for each in figures for role in each)
    return {role: median(each.get(role, 0.0) for each in figures) for role in roles}
