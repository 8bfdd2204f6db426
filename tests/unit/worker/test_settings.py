"""Settings of a worker that do not go together."""

from __future__ import annotations

import pytest

from penstock.worker.settings import WorkerSettings


def test_a_lease_outlasts_some_heartbeats() -> None:
    WorkerSettings(job_lease_s=9, job_heartbeat_s=3)
    with pytest.raises(ValueError, match="at least 3 times --job-heartbeat-s"):
        WorkerSettings(job_lease_s=8.9, job_heartbeat_s=3)
