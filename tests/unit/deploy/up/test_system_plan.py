"""What the children of a local system are told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from penstock.deploy.local.system.data_dir import DataDir
from penstock.deploy.local.system.runtime_dir import RuntimeDir
from penstock.deploy.local.up.settings import UpSettings
from penstock.deploy.local.up.system_plan import KILL_AFTER_GRACE_S, SystemPlan
from penstock.registry_sync.settings import SyncSettings

TAGS_AND_MODELS = ("TAG_PREFIX", "INCLUDE", "EXCLUDE", "MODEL_TAG")


def plan_of(base: Path, settings: UpSettings) -> SystemPlan:
    """The plan of a system in `base`."""
    data_dir = DataDir(base / "data")
    data_dir.make()
    return SystemPlan(
        settings=settings,
        data_dir=data_dir,
        runtime=RuntimeDir(base, descriptor=-1),
        redis_url="redis://127.0.0.1",
        mlflow_uri="",
        listen_fd=0,
        port=1,
        webhook_secrets="whsec_x",
    )


@pytest.mark.parametrize("url", [None, "s3://bucket/jobs"])
def test_gateways_and_workers_share_one_place_for_blobs(tmp_path: Path, url: str | None) -> None:
    plan = plan_of(tmp_path, UpSettings(blobs_url=url))
    assert plan.data_dir.blobs.stat().st_mode & 0o777 == 0o700
    told = {spec.environment["PENSTOCK_BLOBS_URL"] for spec in plan.gateways() + plan.workers()}
    assert told == {url or str(tmp_path / "data" / "blobs")}
    (gateway,) = plan.gateways()
    assert gateway.environment["PENSTOCK_WEBHOOK_SECRETS"] == "whsec_x"
    assert "whsec_x" not in repr(plan) + repr(gateway)
    (worker,) = plan.workers()
    assert "PENSTOCK_WEBHOOK_SECRETS" not in worker.environment


@pytest.mark.parametrize(("longest_s", "needed_s"), [(600.0, 600.0), (0.0, 7.0)])
def test_a_worker_may_drain_for_as_long_as_it_is_told_to(
    tmp_path: Path, longest_s: float, needed_s: float
) -> None:
    settings = UpSettings(drain_grace_s=7, handover_grace_s=5, drain_timeout_s_max=longest_s)
    (worker,) = plan_of(tmp_path, settings).workers()
    assert worker.environment["PENSTOCK_DRAIN_TIMEOUT_S_MAX"] == str(longest_s)
    assert worker.grace_s == needed_s + 5 + KILL_AFTER_GRACE_S
    (gateway,) = plan_of(tmp_path, settings).gateways()
    assert gateway.grace_s == 7 + KILL_AFTER_GRACE_S


@pytest.mark.parametrize(
    ("host", "wanted", "told"),
    [
        ("127.0.0.1", "auto", "message"),
        ("::1", "auto", "message"),
        ("localhost", "auto", "message"),
        ("0.0.0.0", "auto", "none"),
        ("example.org", "auto", "none"),
        ("127.0.0.1", "none", "none"),
        ("0.0.0.0", "message", "message"),
    ],
)
def test_callers_on_this_machine_are_told_what_a_model_raised(
    tmp_path: Path, host: str, wanted: Literal["auto", "message", "none"], told: str
) -> None:
    (worker,) = plan_of(tmp_path, UpSettings(host=host, error_details=wanted)).workers()
    assert worker.environment["PENSTOCK_ERROR_DETAILS"] == told


def test_by_default_that_is_an_hour(tmp_path: Path) -> None:
    (worker,) = plan_of(tmp_path, UpSettings()).workers()
    assert worker.environment["PENSTOCK_DRAIN_TIMEOUT_S_MAX"] == "3600.0"


def test_registry_sync_is_told_which_tags_and_models_are_this_systems(tmp_path: Path) -> None:
    settings = UpSettings(
        tag_prefix="staging", include=("a-*", "b c"), exclude=("a-x",), model_tag="stage=blue"
    )
    (sync,) = plan_of(tmp_path, settings).syncs()
    variables = {name: sync.environment[f"PENSTOCK_{name}"] for name in TAGS_AND_MODELS}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(f"PENSTOCK_{name}", value)
        found = SyncSettings()
    assert (found.tag_prefix, found.model_tag) == ("staging", "stage=blue")
    assert (found.include, found.exclude) == (("a-*", "b c"), ("a-x",))


@pytest.mark.parametrize("prefix", ["", "a.b", "1a", "a b", "x" * 33])
def test_a_prefix_that_no_tag_may_have_is_refused(prefix: str) -> None:
    for settings in (UpSettings, SyncSettings):
        with pytest.raises(ValueError, match="tag_prefix"):
            settings(tag_prefix=prefix)
