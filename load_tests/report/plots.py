"""Pictures of a scenario: throughput against concurrency, latency against load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from matplotlib.figure import Figure

from load_tests.report.results import Point, ScenarioResult

DPI = 110
SIZE_INCHES = (7.0, 4.5)

Series: TypeAlias = dict[str, list[tuple[float, float]]]


def draw(result: ScenarioResult, out: Path, name: str) -> list[Path]:
    """Draw what a scenario's points allow; returns the files."""
    valid = [point for point in result.points if not point.void and point.answered]
    closed = [point for point in valid if not point.offered_rps]
    opened = [point for point in valid if point.offered_rps]
    stem = name if name == result.name else f"{name}-{result.name}"
    paths = []
    throughput = _series(closed, lambda p: (p.connections, p.goodput_rps))
    if _drawable(throughput):
        path = out / f"{stem}-throughput.png"
        _plot(throughput, path, ("concurrent clients", "answers per second"), logarithmic="x")
        paths.append(path)
    latency = _series(closed, lambda p: (p.goodput_rps, p.latency.p99_ms))
    if _drawable(throughput):
        path = out / f"{stem}-latency.png"
        _plot(latency, path, ("answers per second", "p99 in ms"), logarithmic="xy")
        paths.append(path)
    under_load = _series(opened, lambda p: (p.offered_rps, p.latency.p99_ms))
    if _drawable(under_load):
        path = out / f"{stem}-latency-open.png"
        axes = ("requests per second, Poisson", "p99 from the intended time, ms")
        _plot(under_load, path, axes, logarithmic="xy")
        paths.append(path)
    return paths


def _series(points: Sequence[Point], place: Callable[[Point], tuple[float, float]]) -> Series:
    series: Series = {}
    for point in points:
        label = f"{point.server} {point.model} {point.encoding}"
        series.setdefault(label, []).append(place(point))
    return series


def _drawable(series: Series) -> bool:
    return any(len({x for x, _ in places}) > 1 for places in series.values())


def _plot(series: Series, path: Path, axes: tuple[str, str], *, logarithmic: str) -> None:
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    plot = figure.subplots()
    for label, places in series.items():
        plot.plot([x for x, _ in places], [y for _, y in places], marker="o", label=label)
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    if "x" in logarithmic:
        plot.set_xscale("log")
    if "y" in logarithmic:
        plot.set_yscale("log")
    plot.grid(alpha=0.3, which="both")
    plot.legend(fontsize="small")
    figure.savefig(path)
