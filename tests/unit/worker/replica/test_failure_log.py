"""The line about an execution that failed."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.shared.process.log_limit import LINES_MAX, WINDOW_S
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Request
from penstock.worker.job_line.messages import Job
from penstock.worker.jobs.queue import JobItem
from penstock.worker.replica.failure_log import (
    CAUSE_CHARS_MAX,
    NAMED_MAX,
    TRACEBACK_CHARS_MAX,
    FailureLog,
    cause_of,
)
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError
from penstock.worker.runtimes.failures import as_execution_errors
from penstock.worker.session.batching import Item

Lines = list[MutableMapping[str, Any]]


def call(number: int) -> Item:
    return Item(("g-1", number), None, 1, 5, 9.0, 9.0, 0.0, Request(number, 1, ()))


def job(name: str) -> JobItem:
    return JobItem(Job(7, Request(7, 1, ()), id=name), None, 1, 0.0)


def raised(error: Exception) -> ExecutionError:
    """As a runtime turns what a model raises."""
    try:
        with as_execution_errors("cpu", trust_words=False):
            predict(error)
    except ExecutionError as turned:
        return turned
    raise AssertionError("nothing was raised")


def predict(error: Exception) -> None:
    raise error


def lines(error: Exception, *items: Item) -> Lines:
    with capture_logs() as logs:
        FailureLog(get_logger("test"), lambda: 0.0).tell(error, "input", "why", len(items), items)
    return logs


def test_a_failure_names_its_call_what_was_raised_and_where() -> None:
    (line,) = lines(raised(KeyError("width")), call(3))
    assert line["event"] == "execution failed"
    assert line["calls"] == ["g-1/3"]
    assert line["exception_type"] == "KeyError"
    assert "in predict" in line["traceback"]
    assert line["traceback"].endswith("KeyError: 'width'")
    assert "jobs" not in line


def test_an_error_that_no_runtime_turned_is_told_with_its_cause() -> None:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    (line,) = lines(error, call(3))
    assert line["exception_type"] == "ValueError"
    assert "KeyError: 'inner'" in line["traceback"]
    assert line["traceback"].endswith("ValueError: outer")


def test_a_failure_of_a_job_names_the_job() -> None:
    (line,) = lines(raised(KeyError("width")), call(3), job("j-1"))
    assert (line["calls"], line["jobs"]) == (["g-1/3"], ["j-1"])


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KeyError("width"), "KeyError: 'width'"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("\n  \n"), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * (CAUSE_CHARS_MAX - 12)),
    ],
)
def test_a_cause_is_a_type_and_a_first_line(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause
    with pytest.raises(ExecutionError) as turned, as_execution_errors("cpu", trust_words=False):
        raise error
    assert cause_of(turned.value) == cause


def test_an_exception_that_cannot_be_told_has_a_cause_all_the_same() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert cause_of(MuteError()) == "MuteError: (it cannot say)"


def test_a_load_that_failed_is_told_as_an_execution_is() -> None:
    log = FailureLog(get_logger("test"), lambda: 0.0)
    try:
        raise ModelLoadError("the model failed its warm-up") from raised(KeyError("width"))
    except ModelLoadError as error:
        with capture_logs() as logs:
            log.tell_load(error, invalid=True)
    (line,) = logs
    assert (line["event"], line["log_level"], line["kind"]) == ("load failed", "warning", "invalid")
    assert (line["exception_type"], line["reason"]) == ("KeyError", "the model failed its warm-up")
    assert "in predict" in line["traceback"]
    assert line["traceback"].endswith("KeyError: 'width'")


def test_a_line_is_bounded_whatever_a_model_raises() -> None:
    (line,) = lines(raised(ValueError("x" * 1_000_000)), *[call(n) for n in range(1000)])
    assert len(line["traceback"]) <= TRACEBACK_CHARS_MAX
    assert "in predict" in line["traceback"]
    assert len(line["calls"]) == NAMED_MAX


def test_a_model_that_always_fails_fills_no_log_and_batches_hide_no_single_one() -> None:
    now = 0.0
    log = FailureLog(get_logger("test"), lambda: now)
    error = raised(KeyError("width"))
    with capture_logs() as logs:
        for _ in range(2 * LINES_MAX):
            log.tell(error, "input", "why", 2, [call(1), call(2)])
        log.tell(error, "input", "why", 1, [call(1)])
        assert len(logs) == LINES_MAX + 1
        now = WINDOW_S
        log.tell(error, "input", "why", 1, [call(3)])
    assert [line.get("left_out") for line in logs[LINES_MAX + 1 :]] == [LINES_MAX, None]
