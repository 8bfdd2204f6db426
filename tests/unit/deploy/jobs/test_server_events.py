"""Server-sent events out of lines."""

from __future__ import annotations

import pytest

from penstock.deploy.local.jobs.server_events import ServerEvent, read_events


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_read(end: bytes) -> None:
    text = b"|".join(
        [
            *(b":", b"", b"id: 1-0", b"event: state", b'data: {"state":"running"}', b""),
            *(b"data:a", b"data: b", b"retry: 3", b"unknown: x", b""),
            *(b"event: empty", b"", b"id: 2-0", b"data", b"", b"data: cut off"),
        ]
    )
    lines = [line + end for line in text.split(b"|")]
    assert list(read_events(lines)) == [
        ServerEvent("1-0", "state", '{"state":"running"}'),
        ServerEvent("1-0", "message", "a\nb"),
        ServerEvent("2-0", "message", ""),
    ]
