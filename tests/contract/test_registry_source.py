"""One suite over every registry: what is read, what is written, and the whole daemon on it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.registry_sync.daemon.controller import Controller
from penstock.registry_sync.plan.model_filter import ModelFilter
from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.mlflow_source import MlflowSource
from penstock.registry_sync.sources.types import (
    OVER,
    ObservedModel,
    RegistryError,
    Status,
    StatusUpdate,
)
from penstock.shared.artifacts.cache import ArtifactCache
from penstock.shared.process.clock import SystemClock
from tests.contract.registries import (
    ALIASES,
    FolderRegistry,
    MlflowRegistry,
    OperatedRegistry,
    something_else,
)
from tests.support.memory_store import MemoryStateStore


@pytest.fixture(params=["folder", "mlflow"])
def operated(request: pytest.FixtureRequest, mlflow_uri: str, tmp_path: Path) -> OperatedRegistry:
    if request.param == "folder":
        return FolderRegistry(tmp_path / "models")
    return MlflowRegistry(mlflow_uri, tmp_path / "to log")


def test_what_is_named_is_observed(operated: OperatedRegistry) -> None:
    operated.register("named", versions=4)
    operated.tag_model("named", "penstock.replicas", "2")
    operated.tag_version("named", "1", "penstock.role", "stable")
    operated.set_alias("named", "champion", "2")
    operated.set_alias("named", "someone-elses", "3")
    model = operated.source.observe([])["named"]
    assert model.tags == {"penstock.replicas": "2"}
    assert model.aliases == {"champion": "2", "someone-elses": "3"}
    assert [seen.version for seen in model.versions] == ["1", "2"]
    assert model.versions[0].tags == {"penstock.role": "stable"}
    assert "named/1" in model.versions[0].source.uri
    everything = [("named", "4"), ("named", "9"), ("gone", "1")]
    known = operated.source.observe(everything)
    assert [seen.version for seen in known["named"].versions] == ["1", "2", "4"]
    assert "gone" not in known


def test_tag_edits_are_seen_though_no_time_stamp_moves(operated: OperatedRegistry) -> None:
    operated.register("edited")
    operated.tag_version("edited", "1", "penstock.role", "stable")
    before = operated.source.observe([])["edited"]
    operated.tag_version("edited", "1", "penstock.role", "off")
    after = operated.source.observe([])["edited"]
    assert before.versions[0].tags != after.versions[0].tags
    assert before.versions[0].source == after.versions[0].source
    operated.untag_version("edited", "1", "penstock.role")
    assert operated.source.observe([])["edited"].versions == ()


@pytest.mark.parametrize("last", sorted(OVER))
def test_statuses_are_written_and_then_observed(operated: OperatedRegistry, last: Status) -> None:
    operated.register("told")
    message = "1 of 2 replicas ready; it's: 'so' # ünd more"
    operated.source.write_status(StatusUpdate("told", "1", Status.SERVING, message))
    (seen,) = operated.source.observe([])["told"].versions
    assert seen.tags == {"penstock.status": "serving", "penstock.status_message": message}
    operated.source.write_status(StatusUpdate("told", "1", last))
    assert operated.source.observe([])["told"].versions == ()
    assert operated.tags_of("told", "1")["penstock.status"] == last
    operated.delete_model("told")


def test_mlflow_tells_when_a_version_changed(mlflow_uri: str, tmp_path: Path) -> None:
    operated = MlflowRegistry(mlflow_uri, tmp_path / "to log")
    began_at = time.time()
    operated.register("dated")
    operated.tag_version("dated", "1", "penstock.role", "stable")
    (seen,) = operated.source.observe([])["dated"].versions
    assert seen.updated_at is not None
    assert began_at - 1 <= seen.updated_at <= time.time() + 1
    assert seen.registered_by == ""  # this server knows no users
    operated.delete_model("dated")


def test_a_recreated_version_has_another_identity(operated: OperatedRegistry) -> None:
    operated.register("again")
    before = operated.source.observe([("again", "1")])["again"].versions[0].source
    operated.delete_model("again")
    assert "again" not in operated.source.observe([("again", "1")])
    operated.register("again")
    after = operated.source.observe([("again", "1")])["again"].versions[0].source
    assert before.uri == after.uri
    assert before.identity != after.identity


def test_systems_with_prefixes_of_their_own_see_and_touch_only_their_tags(
    operated: OperatedRegistry,
) -> None:
    operated.register("shared", versions=3)
    operated.tag_model("shared", "penstock.replicas", "2")
    operated.tag_model("shared", "staging.replicas", "3")
    operated.tag_model("shared", "team", "x")
    operated.tag_version("shared", "1", "penstock.role", "stable")
    operated.tag_version("shared", "2", "staging.role", "stable")
    staging = operated.another(TagNames("staging"))
    operated.source.write_status(StatusUpdate("shared", "1", Status.SERVING, "a", owner="o p"))
    before = dict(operated.tags_of("shared", "1"))
    staging.write_status(StatusUpdate("shared", "2", Status.LOADING, "b", owner="s t"))
    staging.write_status(StatusUpdate("shared", "1", Status.SUPERSEDED, "c"))
    production = operated.source.observe([])["shared"]
    assert production.tags == {"penstock.replicas": "2"}
    assert [seen.version for seen in production.versions] == ["1"]
    assert production.versions[0].tags == {
        "penstock.role": "stable",
        "penstock.status": "serving",
        "penstock.status_message": "a",
        "penstock.owner": "o p",
    }
    seen = staging.observe([])["shared"]
    assert seen.tags == {"penstock.replicas": "3"}
    assert {each.version: each.tags for each in seen.versions} == {
        "1": {"penstock.status": "superseded", "penstock.status_message": "c"},
        "2": {
            "penstock.role": "stable",
            "penstock.status": "loading",
            "penstock.status_message": "b",
            "penstock.owner": "s t",
        },
    }
    after = operated.tags_of("shared", "1")
    assert {tag: after[tag] for tag in before} == before
    operated.delete_model("shared")


@pytest.mark.parametrize(
    "admitted",
    [
        ModelFilter(include=["tak*", "nothing"], exclude=["left *"]),
        ModelFilter(exclude=["left *"]),
        ModelFilter(tag="stage=blue"),
        ModelFilter(tag="stage=blue", include=["taken in*"]),
    ],
)
def test_a_filter_leaves_models_out_and_says_so_of_what_is_deployed(
    operated: OperatedRegistry, admitted: ModelFilter, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.id
    taken, left = f"taken in {number}", f"left out {number}"
    for name, stage in ((taken, "blue"), (left, "green")):
        operated.register(name)
        operated.tag_model(name, "stage", stage)
        operated.tag_version(name, "1", "penstock.role", "stable")
        operated.set_alias(name, "champion", "1")
    filtered = operated.another(admitted=admitted)
    seen = filtered.observe([(left, "1")])
    assert seen[left] == ObservedModel(left, left_out=True)
    assert not seen[taken].left_out
    assert [each.version for each in seen[taken].versions] == ["1"]
    assert not filtered.observe([]).get(left, ObservedModel(left)).versions
    for name in (taken, left):
        operated.delete_model(name)


def test_errors_are_ours_and_soon(operated: OperatedRegistry) -> None:
    with pytest.raises(RegistryError, match="not found"):
        operated.source.write_status(StatusUpdate("nowhere", "1", Status.FAILED))
    started = time.monotonic()
    with pytest.raises(RegistryError):
        operated.unreachable().observe([])
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "lists no models"),  # an MLflow whose database is a new one
        (b"", "lists no models"),
        (b"<html>", "successful but the response body"),
        (b'{"registered_models": [{"name": 5}]}', "ParseError"),
    ],
)
def test_what_answers_instead_of_mlflow_has_deleted_nothing(body: bytes, words: str) -> None:
    with something_else(body) as url:
        source = MlflowSource(url, ALIASES)
        with pytest.raises(RegistryError, match=words):
            source.observe([("deployed", "1")])


def test_an_mlflow_without_models_is_empty_where_nothing_is_deployed() -> None:
    with something_else(b"{}") as url:
        assert MlflowSource(url, ALIASES).observe([]) == {}


def without_owner(operated: OperatedRegistry, system_id: str) -> dict[str, str]:
    """The tags of `real`, once they are marked as ours."""
    tags = dict(operated.tags_of("real", "1"))
    return tags if tags.pop("penstock.owner", "").startswith(f"{system_id} penstock@") else {}


async def test_the_daemon_follows_a_real_registry(
    operated: OperatedRegistry, tmp_path: Path
) -> None:
    """Up to placement, for there is no worker: fetched, hashed, and told to the operator."""
    await asyncio.to_thread(operated.add_version, "real", "flavors: {}\n")
    operated.tag_version("real", "1", "penstock.role", "stable")
    cache = ArtifactCache(tmp_path / "cache", 2**30, 60.0)
    store = MemoryStateStore(SystemClock())
    settings = SyncSettings(poll_interval_s=0.2, state_poll_s=0.2)
    controller = Controller(settings, store, lambda: operated.source, cache, SystemClock(), "a")
    running = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(60):
            while not (await store.deployment()).revisions:
                await asyncio.sleep(0.05)
            (revision,) = (await store.deployment()).revisions.values()
            assert [file.path for file in revision.manifest.files] == ["MLmodel"]
            folder = await cache.get(revision.manifest, revision.source)
            assert (folder / "MLmodel").read_text() == "flavors: {}\n"
            expected = {
                "penstock.role": "stable",
                "penstock.status": "loading",
                "penstock.status_message": "no worker is there",
            }
            owner = await store.system_id()
            while without_owner(operated, owner) != expected:
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
