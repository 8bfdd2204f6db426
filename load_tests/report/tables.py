"""Results as Markdown; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from load_tests.report.machine import Machine
from load_tests.report.results import Check, Point, Report, ScenarioResult, Table

ROLE_ORDER = ("gateway", "replica", "job port", "agent", "sync", "store", "rest")

POINT_HEADER = (
    *(
        "server",
        "model",
        "encoding",
        "load",
        "req/s",
        "(min..max)",
        "p50 ms",
        "p90",
        "p99",
        "p99.9",
    ),
    *("errors", "CPU µs/req", "by role", "PSS MiB", "others' cores", "lag p99 ms"),
)


def render_report(report: Report) -> str:
    """The whole run."""
    parts = [f"# {report.title}", _machine(report.machine), f"`{report.command}`"]
    parts += [_scenario(result) for result in report.scenarios]
    return "\n\n".join(parts) + "\n"


def render_table(table: Table) -> str:
    """A table, under its title if it has one."""
    title = [f"**{table.title}**", ""] if table.title else []
    rule = "|".join(["---"] * len(table.header))
    rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in [table.header, *table.rows]]
    return "\n".join([*title, rows[0], f"|{rule}|", *rows[1:]])


def points_table(points: Sequence[Point]) -> Table:
    """All there is about some points; columns that would be empty are left out."""
    rows = [_point_row(point) for point in points]
    kept = [
        column
        for column in range(len(POINT_HEADER))
        if any(row[column] not in ("", "-") for row in rows)
    ]
    return Table(
        "",
        [POINT_HEADER[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
    )


def number(value: float) -> str:
    """With as many digits as mean something."""
    if math.isnan(value):
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def by_role(figures: Mapping[str, float]) -> str:
    """As in `gateway 60, replica 12`; of roles that took nothing, nothing."""
    known = [role for role in ROLE_ORDER if role in figures]
    others = sorted(set(figures) - set(known))
    return ", ".join(
        f"{role} {number(figures[role])}" for role in [*known, *others] if figures[role] >= 0.005
    )


def _point_row(point: Point) -> list[str]:
    latency = point.latency
    named = [point.server, point.model, point.encoding, point.load]
    errors = ", ".join(f"{kind} {count}" for kind, count in point.errors.items()) or "0"
    memory = [number(point.pss_mib_all) if point.pss_mib else "-", number(point.others_cores)]
    if point.void:
        void = [f"void: {point.void}", *[""] * 5]
        return [*named, *void, errors, "-", "", *memory, number(point.lag_p99_ms)]
    spread = f"{number(point.goodput_min)}..{number(point.goodput_max)}"
    figures = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms)
    return [
        *(*named, number(point.goodput_rps), spread if point.repeats > 1 else "-"),
        *map(number, figures),
        *(errors, number(point.cpu_us_all) if point.cpu_us else "-", by_role(point.cpu_us)),
        *(*memory, number(point.lag_p99_ms)),
    ]


def _scenario(result: ScenarioResult) -> str:
    parts = [f"## {result.name}", result.about]
    if result.points:
        parts.append(render_table(points_table(result.points)))
    parts += [render_table(table) for table in result.tables]
    if result.checks:
        parts.append("\n".join(map(_check, result.checks)))
    parts += result.notes
    parts.append(f"Took {result.took_s:.0f} s.")
    return "\n\n".join(parts)


def _check(check: Check) -> str:
    mark = {True: "holds", False: "**does not hold**", None: "for the record"}[check.held]
    return f"- {check.what}: {check.figure} ({mark})"


def _machine(machine: Machine) -> str:
    commit = f"{machine.commit or 'not in git'}{' with changes' if machine.dirty else ''}"
    lines = [
        f"- {machine.date}, commit {commit}",
        f"- {machine.cpu}, {machine.cores} cores, {machine.memory_gib:.1f} GiB, "
        f"Linux {machine.kernel}, load average before {machine.load_average:.2f}",
        "- " + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def checks_held(results: Iterable[ScenarioResult]) -> bool:
    """Whether nothing that has a bar missed it."""
    return all(check.held is not False for result in results for check in result.checks)
