"""Logs: where they cannot be written, they are lost, and nothing else is."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

LOGS = """
import logging
from penstock.shared.process.telemetry import configure_logging, get_logger
configure_logging("info", "json", process="test")
get_logger("part").info("one of ours", text="x" * 20_000)
logging.getLogger("a library").warning("one of theirs")
get_logger("part").info("another")
print("done")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_line_that_the_disk_has_no_room_for_fails_nobody() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", LOGS], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert ended.stdout == b"done\n"


def test_lines_are_written_one_by_one() -> None:
    ended = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, check=True)
    events = ["one of ours", "one of theirs", "another"]
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == len(events)
    assert all(event in line for event, line in zip(events, lines, strict=True))
    assert logging.getLevelName(logging.INFO).lower() in lines[0]


ON_A_THREAD = """
import threading
from penstock.shared.process.telemetry import configure_logging, get_logger
configure_logging("info", "json", process="test")
thread = threading.Thread(target=lambda: get_logger("part").info("from a thread"))
thread.start()
thread.join()
"""


def test_a_line_carries_its_process_on_whichever_thread_it_is_written() -> None:
    ended = subprocess.run([sys.executable, "-c", ON_A_THREAD], capture_output=True, check=True)
    assert json.loads(ended.stderr)["process"] == "test"
