"""What a replica began is known when it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from penstock.shared.jobs.ids import new_job_id
from penstock.worker.jobs.begun import JOBS_MAX, BegunJobs, new_memory, read_begun


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = new_memory()
    yield descriptor
    os.close(descriptor)


def test_nothing_began_at_first(memory: int) -> None:
    assert read_begun(memory) == frozenset()


def test_the_newest_are_known(memory: int) -> None:
    begun, ids = BegunJobs(memory), [new_job_id() for _ in range(JOBS_MAX + 10)]
    begun.add(ids[:3])
    begun.add(ids[3:5])
    assert read_begun(memory) == frozenset(ids[:5])
    begun.add(ids[5:])
    assert read_begun(memory) == frozenset(ids[10:])


def test_what_a_process_wrote_before_it_was_killed_is_there(memory: int) -> None:
    job_id = new_job_id()
    program = (
        "import os, sys; from penstock.worker.jobs.begun import BegunJobs; "
        "BegunJobs(int(sys.argv[1])).add([sys.argv[2]]); os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", program, str(memory), job_id]
    ended = subprocess.run(arguments, pass_fds=[memory], timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert read_begun(memory) == {job_id}
