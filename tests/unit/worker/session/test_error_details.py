"""What callers are told of an exception: its first line, without paths, and not all of it."""

from __future__ import annotations

import pytest

from penstock.worker.session.error_details import DETAIL_CHARS_MAX, with_cause


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("", "it failed"),
        ("KeyError: 'age'", "it failed: KeyError: 'age'"),
        ("ValueError: a/b is 1/2", "it failed: ValueError: a/b is 1/2"),
        ("ValueError: one\nFile /etc/passwd", "it failed: ValueError: one"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/srv/models/m.pkl'",
            "it failed: FileNotFoundError: [Errno 2] No such file or directory: '(a path)'",
        ),
        ("OSError: ~/secrets is empty", "it failed: OSError: (a path) is empty"),
        (r"OSError: C:\models\m.pkl", "it failed: OSError: (a path)"),
        ("OSError: ../m.pkl: gone", "it failed: OSError: (a path): gone"),
    ],
)
def test_a_line_without_paths(cause: str, told: str) -> None:
    assert with_cause("it failed", cause) == told


def test_it_is_cut() -> None:
    told = with_cause("it failed", "ValueError: " + "x" * 1000)
    assert len(told) == len("it failed: ") + DETAIL_CHARS_MAX + len("...")
