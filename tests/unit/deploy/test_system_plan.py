"""What the children of a local system are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.data_dir import DataDir
from deploy.local.runtime_dir import RuntimeDir
from deploy.local.system_plan import SystemPlan
from deploy.local.up_settings import UpSettings


@pytest.mark.parametrize("url", [None, "s3://bucket/jobs"])
def test_gateways_and_workers_share_one_place_for_blobs(tmp_path: Path, url: str | None) -> None:
    data_dir = DataDir(tmp_path / "data")
    data_dir.make()
    assert data_dir.blobs.stat().st_mode & 0o777 == 0o700
    plan = SystemPlan(
        settings=UpSettings(blobs_url=url),
        data_dir=data_dir,
        runtime=RuntimeDir(tmp_path, descriptor=-1),
        redis_url="redis://127.0.0.1",
        mlflow_uri="",
        listen_fd=0,
        port=1,
        webhook_secrets="whsec_x",
    )
    told = {spec.environment["PENSTOCK_BLOBS_URL"] for spec in plan.gateways() + plan.workers()}
    assert told == {url or str(tmp_path / "data" / "blobs")}
    (gateway,) = plan.gateways()
    assert gateway.environment["PENSTOCK_WEBHOOK_SECRETS"] == "whsec_x"
    assert "whsec_x" not in repr(plan) + repr(gateway)
    (worker,) = plan.workers()
    assert "PENSTOCK_WEBHOOK_SECRETS" not in worker.environment
