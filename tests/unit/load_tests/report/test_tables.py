"""Results as Markdown."""

from __future__ import annotations

import pytest

from load_tests.report.machine import Machine
from load_tests.report.percentiles import Latency
from load_tests.report.results import Check, Point, Report, ScenarioResult, Table
from load_tests.report.tables import by_role, checks_held, number, render_report, render_table

MACHINE = Machine(
    date="2026-01-02T03:04:05+00:00",
    cpu="A CPU",
    cores=2,
    memory_gib=7.5,
    kernel="6.1",
    load_average=0.25,
    versions={"python": "3.11.7", "wrk": "4.1.0"},
    commit="abc",
    dirty=True,
)

POINT = Point(
    server="penstock",
    model="tiny",
    encoding="json",
    load="c=16",
    connections=16,
    duration_s=5.0,
    answered=50_000,
    goodput_rps=10_000.0,
    latency=Latency(1.234, 2.0, 3.0, 45.67, 100.0),
    errors={"status": 3},
    cpu_us={"replica": 12.0, "gateway": 40.0},
    pss_mib={"gateway": 80.0},
)

VOID = Point(
    server="penstock",
    model="tiny",
    encoding="json",
    load="80%",
    connections=16,
    duration_s=5.0,
    answered=1,
    goodput_rps=987654.0,
    latency=Latency(98765.0),
    void="the generator was late",
)


def result(*points: Point, checks: tuple[Check, ...] = ()) -> ScenarioResult:
    return ScenarioResult("tiny", "A scenario.", points=points, checks=checks, took_s=1.0)


def test_a_report_tells_machine_versions_and_figures() -> None:
    checks = (Check("a bar", "5 ms", False), Check("another", "1 ms", True), Check("more", "3"))
    text = render_report(Report("Title", "a command", MACHINE, [result(POINT, checks=checks)]))
    for part in (
        *("# Title", "`a command`", "A CPU, 2 cores, 7.5 GiB", "commit abc with changes"),
        *("python 3.11.7, wrk 4.1.0", "## tiny", "- a bar: 5 ms (**does not hold**)"),
        *("- another: 1 ms (holds)", "- more: 3 (for the record)"),
    ):
        assert part in text
    (row,) = [line for line in text.splitlines() if line.startswith("| penstock")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("penstock", "tiny", "json", "c=16", "10,000", "1.23", "2.00", "3.00", "45.7"),
        *("status 3", "52.0", "gateway 40.0, replica 12.0", "80.0"),
    ]


def test_a_void_run_shows_no_figures() -> None:
    text = render_report(Report("Title", "a command", MACHINE, [result(POINT, VOID)]))
    assert "void: the generator was late" in text
    assert "987" not in text


def test_rows_and_header_have_the_same_columns() -> None:
    text = render_report(Report("Title", "a command", MACHINE, [result(POINT, VOID)]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_a_cell_cannot_break_the_table() -> None:
    text = render_table(Table("Why", ("peer", "reason"), [["a", "x | y\nz"]]))
    assert text.splitlines()[-1] == r"| a | x \| y z |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (99.96, "100.0"), (9.876, "9.88"), (0.0, "0.00"), (float("nan"), "-")],
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_roles_come_in_the_order_of_a_requests_way() -> None:
    assert by_role({"zebra": 1.0, "replica": 2.0, "gateway": 3.0, "sync": 0.0}) == (
        "gateway 3.00, replica 2.00, zebra 1.00"
    )


def test_a_bar_that_is_missed_is_noticed() -> None:
    assert checks_held([result(checks=(Check("a", "1", True), Check("b", "2")))])
    assert not checks_held([result(checks=(Check("a", "1", True), Check("b", "2", False)))])
