"""A folder of models: what counts, when it begins to count, and what is only passing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.registry_sync.plan.wishes import wish_of
from penstock.registry_sync.sources.folder_listing import DANGLING
from penstock.registry_sync.sources.folder_source import HANGS, DefaultRole, FolderSource
from penstock.registry_sync.sources.types import (
    ObservedModel,
    Registry,
    RegistryError,
    Status,
    StatusUpdate,
)
from penstock.shared.artifacts.copy import content_of
from penstock.shared.process.clock import FakeClock
from tests.unit.registry_sync.worlds import POLICY

SETTLE_S = 10.0
"""Much longer than a test takes: what has settled did so because the clock says so."""


class Clock(FakeClock):
    """True wall-clock time, as in the time stamps of files, unless all of them are to be old."""

    all_is_old = False

    def wall(self) -> float:
        return time.time() + (1000.0 if self.all_is_old else 0.0)


class Models:
    """A folder, and the source that follows it."""

    def __init__(self, folder: Path, default_role: DefaultRole = "latest") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.clock = Clock()
        self.source = FolderSource(
            folder,
            POLICY.stable_aliases,
            self.clock,
            default_role=default_role,
            settle_s=SETTLE_S,
        )

    def write(self, path: str, text: str = "weights") -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def rest(self) -> None:
        """What was written so far is old when it is seen next."""
        self.clock.all_is_old = True

    def observe(self, *known: str) -> Registry:
        try:
            return self.source.observe([("m", version) for version in known])
        finally:
            self.clock.all_is_old = False

    def see(self, *known: str) -> ObservedModel:
        return self.observe(*known)["m"]

    def wished(self, *known: str) -> str | None:
        return wish_of("m", self.see(*known), [], {}, POLICY).version

    def identity(self, *known: str, version: str = "1") -> str:
        seen = self.see(*known).version(version)
        assert seen is not None
        return seen.source.identity


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "models")


def test_the_highest_version_is_stable_unless_one_is_named(models: Models) -> None:
    for version in ("1", "2", "10"):
        models.write(f"m/{version}/model.onnx")
    models.rest()
    assert models.wished() == "10"
    assert models.see().default == "10"
    models.write("m/10/tags.yaml", "penstock.role: off\n")  # to YAML, a boolean
    models.rest()
    assert models.wished() == "2"
    models.write("m/1/tags.yaml", "penstock.role: stable")
    models.rest()
    assert models.wished() == "1"
    assert models.see().default == ""
    models.write("m/tags.yaml", "aliases: {champion: 2}\npenstock.replicas: 3")
    models.rest()
    assert models.wished() == "2"
    assert models.see().tags == {"penstock.replicas": "3"}


def test_a_misspelt_role_moves_nothing(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.write("m/2/model.onnx")
    models.write("m/2/tags.yaml", "penstock.role: stabel")
    models.rest()
    assert models.wished() is None
    assert "stabel" in wish_of("m", models.see(), [], {}, POLICY).roles.unknown["2"]


def test_an_alias_of_what_is_not_there_yet_moves_nothing(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.write("m/tags.yaml", "aliases:\n  champion: 2\n")
    models.rest()
    assert models.wished() is None
    roles = wish_of("m", models.see(), [], {}, POLICY).roles
    assert roles.dangling == "alias champion names version '2', which is not there yet"
    assert [seen.version for seen in models.see().versions] == ["1"], "whose status tells of it"


def test_without_the_default_nothing_is_stable_unless_it_is_named(tmp_path: Path) -> None:
    models = Models(tmp_path / "models", "none")
    models.write("m/1/model.onnx")
    models.rest()
    assert models.see().versions == ()


def test_what_is_being_written_does_not_count_yet(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.rest()
    assert models.wished() == "1"
    for step in range(3):
        models.write("m/2/model.onnx", "x" * step)
        models.clock.advance(SETTLE_S / 2)
        assert models.wished("1") == "1"
    models.rest()
    assert models.wished("1") == "2"


def test_a_file_that_is_edited_is_another_source_once_it_rests(models: Models) -> None:
    file = models.write("m/1/model.onnx")
    models.rest()
    before = models.identity()
    file.write_text("heavier")
    assert models.identity("1") == before
    models.rest()
    after = models.identity("1")
    assert after not in ("", before)
    status = file.stat()
    file.write_text("weighty")  # as long as before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    models.rest()
    assert models.identity("1") not in (before, after)


def test_what_is_no_content_makes_no_other_source(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.rest()
    before = models.identity()
    models.write("m/1/tags.yaml", "penstock.threads: 1")
    models.write("m/1/.model.onnx.Xy12", "half")
    models.write("m/1/.git/HEAD", "x")
    models.source.write_status(StatusUpdate("m", "1", Status.SERVING))
    models.rest()
    assert models.identity("1") == before


def test_after_a_start_what_is_being_written_changes_nothing_that_runs(models: Models) -> None:
    models.write("m/1/model.onnx")
    seen = models.see("1")
    assert "is being written" in seen.problem
    assert wish_of("m", seen, [], {}, POLICY).problems == (seen.problem,)
    models.rest()
    assert models.see("1").problem == ""


@pytest.mark.parametrize("replace", ["folder", "model"])
def test_what_is_replaced_step_by_step_is_not_deleted(models: Models, replace: str) -> None:
    models.write("m/1/model.onnx")
    models.rest()
    before = models.identity()
    shutil.rmtree(models.folder / ("m/1" if replace == "folder" else "m"))
    models.write("other/1/model.onnx")
    assert models.identity("1") == before
    models.write("m/1/model.onnx", "others")
    assert models.identity("1") == before
    models.rest()
    assert models.identity("1") != before


def test_what_stays_away_is_deleted(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.write("other/1/model.onnx")
    models.rest()
    models.see("1")
    shutil.rmtree(models.folder / "m")
    models.see("1")
    models.rest()  # a time stamp of the folder around it is not enough
    assert models.see("1").versions[0].version == "1"
    models.clock.advance(SETTLE_S)
    assert "m" not in models.observe("1")
    # Nor does a daemon that starts then wait for it.
    assert "m" not in Models(models.folder).observe("1")


def test_an_empty_folder_is_taken_for_one_that_is_not_mounted(models: Models) -> None:
    assert models.observe() == {}
    with pytest.raises(RegistryError, match="mounted"):
        models.observe("1")
    models.folder.rmdir()
    with pytest.raises(RegistryError, match="No such file"):
        models.observe()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("penstock.role: [stable", "line 1"),
        ("- penstock.role", "no mapping"),
        ("penstock.role: {a: b}", "no text"),
        ("aliases: [champion]", "aliases is no mapping"),
        ("a: " + "[" * 100_000, ""),
        ("\x01", ""),
        ('penstock.role: "\\ud800"', "no text"),
        ("#" * 2**21, "longer than"),
    ],
)
def test_malformed_tags_are_reported_and_change_nothing(
    models: Models, text: str, why: str
) -> None:
    models.write("m/1/model.onnx")
    path = models.write("m/1/tags.yaml", text)
    models.rest()
    seen = models.see("1")
    assert seen.problem.startswith("tags.yaml of version 1: ")
    assert why in seen.problem
    path.write_text("penstock.role: stable")
    models.rest()
    assert models.see("1").problem == ""


def test_tags_count_once_they_rest(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.write("m/2/model.onnx")
    path = models.write("m/2/tags.yaml", "penstock.role: off")
    models.rest()
    assert models.wished() == "1"
    path.write_text("")  # truncated, to be written anew
    assert models.wished("1") == "1"
    path.unlink()
    models.clock.advance(SETTLE_S / 2)
    assert models.wished("1") == "1"
    models.clock.advance(SETTLE_S)
    assert models.wished("1") == "2"


def test_a_version_may_be_a_link(models: Models, tmp_path: Path) -> None:
    for release in ("a", "b"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "model.onnx").write_text(release)
    (models.folder / "m").mkdir()
    link = models.folder / "m" / "1"
    link.symlink_to(tmp_path / "a")
    models.rest()
    first = models.see().versions[0].source
    assert first.folder == str(tmp_path / "a")
    link.unlink()
    assert models.see("1").versions[0].source == first
    link.symlink_to(tmp_path / "b")
    models.rest()
    assert models.see("1").versions[0].source.folder == str(tmp_path / "b")


def test_names_that_are_no_versions_are_passed_over(models: Models) -> None:
    models.write("m/1/model.onnx")
    for path in ("m/latest/model.onnx", "m/02/model.onnx", "m/-3/x", "m/model.onnx", "README.md"):
        models.write(path)
    (models.folder / "m" / "7").symlink_to("/nowhere/at/all")
    (models.folder / "m" / "8").mkdir()
    models.rest()
    assert [seen.version for seen in models.see().versions] == ["1"]
    assert models.wished() == "1"


def test_statuses_of_versions_that_are_gone_go(models: Models) -> None:
    for version in ("1", "2"):
        models.write(f"m/{version}/model.onnx")
        models.source.write_status(StatusUpdate("m", version, Status.SERVING, "so: it is"))
    shutil.rmtree(models.folder / "m" / "1")
    models.source.write_status(StatusUpdate("m", "2", Status.DRAINING))
    text = (models.folder / "m" / "status.yaml").read_text()
    assert "draining" in text
    assert "so: it is" not in text
    assert [path.name for path in (models.folder / "m").iterdir() if path.name != "2"] == [
        "status.yaml"
    ]


def test_a_spoilt_status_file_is_written_anew(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.write("m/status.yaml", "]")
    models.rest()
    assert models.see().versions[0].tags == {"penstock.role": "stable"}
    models.source.write_status(StatusUpdate("m", "1", Status.SERVING))
    assert models.see("1").versions[0].tags["penstock.status"] == "serving"


def unwritable() -> Path | None:
    """A folder in which not even root may write."""
    return next((path for path in [Path("/sys/kernel")] if path.is_dir()), None)


@pytest.mark.skipif(unwritable() is None, reason="there is no /sys")
def test_a_folder_that_cannot_be_written_is_followed_all_the_same(tmp_path: Path) -> None:
    folder = unwritable()
    assert folder is not None
    source = FolderSource(folder.parent, (), FakeClock(), settle_s=0.0)
    source.write_status(StatusUpdate(folder.name, "1", Status.SERVING))
    assert folder.name in source.observe([])


@pytest.mark.skipif(unwritable() is None, reason="there is no /sys")
def test_what_cannot_be_written_is_told_in_the_log() -> None:
    folder = unwritable()
    assert folder is not None
    source = FolderSource(folder.parent, (), FakeClock(), settle_s=0.0)
    with capture_logs() as logs:
        source.write_status(StatusUpdate(folder.name, "1", Status.SERVING, "a tag is wrong"))
        for _ in range(2):
            source.observe([])
    told = [each["reason"] for each in logs if each["path"] == f"{folder}/1"]
    assert told == ["serving: a tag is wrong"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_statuses_of_a_read_only_folder_are_remembered(models: Models) -> None:
    models.write("m/1/model.onnx")
    models.rest()
    (models.folder / "m").chmod(0o555)
    models.source.write_status(StatusUpdate("m", "1", Status.SERVING))
    assert models.see("1").versions[0].tags["penstock.status"] == "serving"
    (models.folder / "m").chmod(0o755)
    models.source.write_status(StatusUpdate("m", "1", Status.DRAINING))
    assert (models.folder / "m" / "status.yaml").exists()


@pytest.mark.parametrize("many", [200])
def test_a_poll_of_many_versions_is_quick(models: Models, many: int) -> None:
    for number in range(1, many + 1):
        models.write(f"m/{number}/model.onnx")
        models.write(f"m/{number}/tags.yaml", f"penstock.threads: {number}")
    models.rest()
    took_s = min(timed(models.see) for _ in range(3))
    assert took_s < 1.0


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def odd_name(folder: Path) -> None:
    """A file whose name is not UTF-8, as archives from other systems hold."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / os.fsdecode(b"caf\xe9.onnx")).write_text("weights")


def test_a_file_name_that_is_not_utf_8_keeps_its_version_back_and_no_other(
    models: Models,
) -> None:
    for path in ("m/1/model.onnx", "m/2/model.onnx", "other/1/model.onnx"):
        models.write(path)
    models.rest()
    assert models.wished() == "2"
    models.write("m/3/model.onnx")
    odd_name(models.folder / "m" / "3" / "inner")
    models.rest()
    with capture_logs() as logs:
        assert models.wished("2") == "2"
        assert set(models.observe()) == {"m", "other"}
    assert {"b'inner/caf\\xe9.onnx' is no name in UTF-8"} == {each["reason"] for each in logs}
    odd_name(models.folder / "m" / "2")
    models.rest()
    assert models.identity("2", version="2")  # as it was before
    (models.folder / "m" / "3" / "inner").rename(models.folder / ".inner")
    models.rest()
    assert models.wished("2") == "3"


def test_model_and_version_names_that_are_not_utf_8_are_passed_over(models: Models) -> None:
    models.write("m/1/model.onnx")
    for folder in (models.folder, models.folder / "m"):
        (folder / os.fsdecode(b"caf\xe9")).mkdir()
    models.rest()
    assert models.wished() == "1"
    assert set(models.observe()) == {"m"}


def test_a_link_to_itself_hides_nothing_else(models: Models) -> None:
    models.write("m/1/model.onnx")
    for path in (models.folder / "loop", models.folder / "m" / "2"):
        path.symlink_to(path)
    models.rest()
    assert models.wished() == "1"
    assert set(models.observe()) == {"m"}


@pytest.mark.parametrize("what", ["model", "version"])
def test_a_link_into_what_is_not_mounted_deletes_nothing(
    models: Models, tmp_path: Path, what: str
) -> None:
    link = models.folder / "m" / "1" if what == "version" else models.folder / "m"
    elsewhere = tmp_path / "mount"
    (elsewhere if what == "version" else elsewhere / "1").mkdir(parents=True)
    (elsewhere / ("." if what == "version" else "1") / "model.onnx").write_text("weights")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    models.write("other/1/model.onnx")
    models.rest()
    assert models.wished() == "1"
    elsewhere.rename(tmp_path / "unmounted")
    with capture_logs() as logs:
        for _ in range(3):
            models.clock.advance(2 * SETTLE_S)
            seen = models.see("1")
            assert [each.version for each in seen.versions] == ["1"]
    assert [each["reason"] for each in logs if each["path"] == str(link)] == [DANGLING]
    (tmp_path / "unmounted").rename(elsewhere)
    models.rest()
    assert models.wished("1") == "1"
    link.unlink()  # this is how a link is deleted
    for _ in range(2):
        models.clock.advance(2 * SETTLE_S)
        gone = models.observe("1").get("m")
    assert gone is None or gone.versions == ()


def test_a_folder_in_the_place_of_a_file_of_ours_costs_no_descriptors(models: Models) -> None:
    models.write("m/1/model.onnx")
    (models.folder / "m" / "tags.yaml").mkdir()
    (models.folder / "m" / "status.yaml").mkdir()
    models.rest()
    models.see()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert models.see().problem == "Is a directory"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_model_that_cannot_be_looked_at_does_not_hide_the_others(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("m/1/model.onnx", "other/1/model.onnx"):
        models.write(path)
    models.rest()
    models.observe()

    def look(folder: Path) -> object:
        if "/m/" in str(folder):
            raise KeyError("nobody foresaw this")
        return content_of(folder)

    monkeypatch.setattr("penstock.registry_sync.sources.folder_reading.content_of", look)
    seen = models.observe("1")
    assert seen["m"].problem == "KeyError: 'nobody foresaw this'"
    assert [each.version for each in seen["other"].versions] == ["1"]


def test_a_model_that_hangs_is_not_touched_and_keeps_what_is_deployed(models: Models) -> None:
    for path in ("m/1/model.onnx", "other/1/model.onnx", "third/1/model.onnx"):
        models.write(path)
    models.rest()
    models.observe()
    (models.folder / "m").rename(models.folder / ".m")  # whoever looks, finds nothing
    (models.folder / "m").mkdir()
    seen = models.source.observe([("m", "1")], ["m", "third"])
    assert [each.version for each in seen["m"].versions] == ["1"]
    assert seen["m"].problem == seen["third"].problem == HANGS
    assert seen["other"].problem == ""


def test_a_source_tells_where_it_is(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write("m/1/model.onnx")
    models.rest()
    places = []

    def look(folder: Path) -> object:
        places.append((models.source.place, models.source.model_at))
        return content_of(folder)

    assert models.source.model_at == ""
    monkeypatch.setattr("penstock.registry_sync.sources.folder_reading.content_of", look)
    models.observe()
    assert places == [(f"{models.folder}/m/1", "m")]
