"""Lines of the log that others can cause as often as they like."""

from __future__ import annotations

from penstock.shared.process.log_limit import LogLimit


def test_so_many_lines_of_a_kind_are_written_in_a_window_and_the_others_counted() -> None:
    limit = LogLimit(lines_max=3, window_s=60.0)
    written = [limit.may_write("invalid_input", now=float(second)) for second in range(10)]
    assert written == [True] * 3 + [False] * 7
    assert limit.may_write("internal", now=10.0)
    assert limit.over(59.0) == {}
    assert limit.over(60.0) == {"invalid_input": 7}
    assert limit.over(61.0) == {}
    assert limit.may_write("invalid_input", now=61.0)


def test_what_was_written_whole_is_not_told_of() -> None:
    limit = LogLimit(lines_max=3, window_s=60.0)
    assert limit.may_write("invalid_input", now=0.0)
    assert limit.over(100.0) == {}
