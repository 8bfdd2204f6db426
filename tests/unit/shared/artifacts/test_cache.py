"""The artifact cache: content under its digest, fetched once, verified, bounded, cleaned up."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from penstock.shared.artifacts.cache import ArtifactCache
from penstock.shared.artifacts.copy import content_of, copy_content
from penstock.shared.artifacts.folder import (
    RECENTLY_USED_S,
    ArtifactError,
    CacheFolder,
    manifest_of,
    source_key,
    verify,
)
from penstock.shared.contracts.deployment import ArtifactFile, ArtifactManifest, ArtifactSource

pytestmark = pytest.mark.costly

BOUND = 10 * 1024 * 1024


def model_folder(folder: Path, content: bytes = b"weights") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "data" / "model.onnx").write_bytes(content)
    return folder


def source_of(folder: Path, identity: str = "1") -> ArtifactSource:
    uri = folder.as_uri()
    return ArtifactSource(uri=uri, tracking_uri="http://127.0.0.1:9", identity=identity)


def published(disk: CacheFolder, source: Path, content: bytes) -> ArtifactManifest:
    """Put a folder into the cache as a fetch would."""
    written = disk.fresh_temporary("k") / "model"
    manifest = manifest_of(model_folder(written, content))
    disk.publish(written, manifest)
    disk.remember(source_of(source), manifest)
    disk.discard_temporary("k")
    return manifest


@pytest.fixture
def disk(tmp_path: Path) -> CacheFolder:
    folder = CacheFolder(tmp_path / "cache")
    folder.prepare()
    return folder


@pytest.mark.parametrize(
    ("mlmodel", "streams"),
    [
        ("flavors: {python_function: {streamable: true}}", True),
        ("flavors: {python_function: {streamable: false}}", False),
        ("flavors: {python_function: {streamable: 'yes'}}", False),
        ("flavors: {python_function: true}", False),
        ("flavors: [python_function]", False),
        ("- flavors", False),
        ("flavors: {", False),
        ("flavors: \x00", False),
        ("", False),
    ],
)
def test_a_manifest_knows_whether_the_model_streams(
    tmp_path: Path, mlmodel: str, streams: bool
) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "MLmodel").write_text(mlmodel)
    manifest = manifest_of(folder)
    assert manifest.streams is streams
    assert manifest.digest == manifest.model_copy(update={"streams": not streams}).digest


def test_a_manifest_is_sorted_and_complete(tmp_path: Path) -> None:
    manifest = manifest_of(model_folder(tmp_path / "m"))
    assert [file.path for file in manifest.files] == ["MLmodel", "data/model.onnx"]
    assert manifest.size_bytes == 12 + 7
    same = manifest_of(model_folder(tmp_path / "other"))
    assert same.digest == manifest.digest


def test_links_and_empty_folders_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "data" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError, match="data/passwd is a link"):
        manifest_of(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no files"):
        manifest_of(tmp_path / "empty")


def test_verification_names_the_file_that_differs(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    manifest = manifest_of(folder)
    verify(folder, manifest)
    (folder / "data" / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(ArtifactError, match=r"data/model\.onnx has another content"):
        verify(folder, manifest)
    (folder / "data" / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"data/model\.onnx is missing"):
        verify(folder, manifest)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_manifest_cannot_leave_the_folder(disk: CacheFolder, path: str) -> None:
    file = ArtifactFile(path=path, size=1, sha256="0" * 64)
    with pytest.raises(ArtifactError, match="leave"):
        disk.path(ArtifactManifest(files=(file,)))


def test_what_is_published_is_found_and_read_only(disk: CacheFolder, tmp_path: Path) -> None:
    manifest = published(disk, tmp_path, b"weights")
    folder = disk.path(manifest)
    assert folder is not None
    assert folder.name == manifest.digest
    verify(folder, manifest)
    assert (folder / "MLmodel").stat().st_mode & 0o777 == 0o444
    assert (folder / "data").stat().st_mode & 0o777 == 0o555
    assert disk.remembered(source_of(tmp_path)) == manifest
    assert disk.remembered(source_of(tmp_path, identity="2")) is None


def test_a_note_that_does_not_say_whether_the_model_streams_is_not_believed(
    disk: CacheFolder, tmp_path: Path
) -> None:
    manifest = published(disk, tmp_path, b"weights")
    (note,) = (disk.folder / "sources").iterdir()
    note.write_text(manifest.model_dump_json(exclude={"streams"}))
    assert disk.remembered(source_of(tmp_path)) is None


def test_a_broken_folder_is_not_found_and_is_replaced(disk: CacheFolder, tmp_path: Path) -> None:
    manifest = published(disk, tmp_path, b"weights")
    folder = disk.folder / manifest.digest
    (folder / "MLmodel").chmod(0o644)
    (folder / "MLmodel").write_text("")
    assert disk.path(manifest) is None
    assert published(disk, tmp_path, b"weights") == manifest
    assert disk.path(manifest) == folder


def test_eviction_takes_what_was_not_used_for_longest(disk: CacheFolder, tmp_path: Path) -> None:
    manifests = [published(disk, tmp_path, bytes([n]) * 1000) for n in range(4)]
    now = time.time() + RECENTLY_USED_S + 100
    for age, manifest in enumerate(manifests):
        os.utime(disk.folder / manifest.digest, (now - 1000 + age, now - 1000 + age))
    oldest, second, third, newest = [manifest.digest for manifest in manifests]
    assert disk.evict({oldest}, 2100, now) == [second, third]
    assert disk.evict({oldest}, 2100, now) == []
    assert disk.evict({oldest, newest}, 0, now) == []
    assert sorted(path.name for path in disk.folder.iterdir() if len(path.name) == 64) == sorted(
        [oldest, newest]
    )


def test_what_was_used_just_now_is_not_evicted(disk: CacheFolder, tmp_path: Path) -> None:
    published(disk, tmp_path, b"weights")
    assert disk.evict(frozenset(), 0, time.time()) == []


def test_what_is_evicted_is_whole_until_it_is_gone(disk: CacheFolder) -> None:
    written = disk.fresh_temporary("k") / "model"
    written.mkdir()
    for number in range(2000):
        (written / f"{number:04}").write_bytes(b"x")
    manifest = manifest_of(written)
    disk.publish(written, manifest)
    folder = disk.folder / manifest.digest
    long_ago = time.time() - 2 * RECENTLY_USED_S
    os.utime(folder, (long_ago, long_ago))
    evicting = Thread(target=disk.evict, args=((), 0, time.time()))
    evicting.start()
    partial = 0
    while evicting.is_alive():
        with suppress(FileNotFoundError):
            found = len(list(folder.iterdir()))
            # A listing that began before the name was taken away may go on after that.
            partial += found != 2000 and folder.exists()
    evicting.join()
    assert not partial
    assert not folder.exists()
    assert not list((disk.folder / "tmp").glob(f"{manifest.digest}*"))


def test_many_may_evict_and_clean_at_the_same_time(disk: CacheFolder, tmp_path: Path) -> None:
    long_ago = time.time() - 2 * RECENTLY_USED_S
    for number in range(60):
        manifest = published(disk, tmp_path / f"{number}", b"%d" % number)
        os.utime(disk.folder / manifest.digest, (long_ago, long_ago))

    def evict(_: int) -> int:
        evicted = len(disk.evict((), 0, time.time()))
        disk.clean()
        return evicted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(evict, range(8))) == 60
    assert not list((disk.folder / "tmp").iterdir())


def test_a_lock_excludes_others_and_leaves_no_file(disk: CacheFolder) -> None:
    with disk.lock("k") as mine:
        assert mine
        with disk.lock("k", wait=False) as other:
            assert not other
    with disk.lock("k", wait=False) as again:
        assert again
    assert list((disk.folder / "locks").iterdir()) == []


def test_what_dead_processes_left_is_removed(disk: CacheFolder) -> None:
    model_folder(disk.fresh_temporary("dead") / "m")
    model_folder(disk.fresh_temporary("alive") / "m")
    with disk.lock("alive"):
        disk.clean()
        assert [path.name for path in (disk.folder / "tmp").iterdir()] == ["alive"]
    disk.clean()
    assert list((disk.folder / "tmp").iterdir()) == []


async def test_a_source_is_fetched_once_by_however_many(tmp_path: Path) -> None:
    source = source_of(model_folder(tmp_path / "m"))
    daemon = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    agent = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    manifest, *others = await asyncio.gather(
        daemon.discover(source), daemon.discover(source), agent.discover(source)
    )
    assert manifest == manifest_of(tmp_path / "m")
    assert others == [manifest, manifest]
    folder = await agent.get(manifest, source)
    verify(folder, manifest)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        manifest.digest,
        "tmp",
        "locks",
        "sources",
    }
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


async def test_content_that_changed_is_an_error_and_is_not_kept(tmp_path: Path) -> None:
    source = source_of(model_folder(tmp_path / "m"))
    expected = manifest_of(model_folder(tmp_path / "other", b"deployed"))
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    with pytest.raises(ArtifactError, match=r"data/model\.onnx has another content"):
        await cache.get(expected, source)
    assert not (tmp_path / "cache" / expected.digest).exists()
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


async def test_a_fetch_that_takes_too_long_is_ended_with_its_process(tmp_path: Path) -> None:
    """Somebody else holds the source's lock: a shell of a process, so that nothing is imported."""
    source = source_of(model_folder(tmp_path / "m"))
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=1.0)
    await cache.clean()
    lock = tmp_path / "cache" / "locks" / source_key(source)
    holding = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True)"
    code = f"{holding}; sys.stdin.read()"
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(lock), stdin=PIPE, stdout=PIPE
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    with pytest.raises(ArtifactError, match="no end after 1 s"):
        await cache.discover(source)
    await holder.communicate(b"")


def folder_source(folder: Path) -> ArtifactSource:
    identity = content_of(folder).fingerprint
    return ArtifactSource(uri=f"folder:{folder}", tracking_uri="", identity=identity)


def leftovers(cache: Path) -> list[str]:
    return [path.name for name in ("tmp", "locks") for path in (cache / name).iterdir()]


async def test_a_folder_is_copied_without_what_is_no_content(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    expected = manifest_of(folder)
    for name in ("tags.yaml", "status.yaml", ".MLmodel.swp"):
        (folder / name).write_text("x")
    source = folder_source(folder)
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    found = await asyncio.gather(cache.discover(source), cache.discover(source))
    assert list(found) == [expected, expected]
    copied = await cache.get(expected, source)
    verify(copied, expected)
    assert leftovers(tmp_path / "cache") == []
    (folder / "data" / "model.onnx").write_bytes(b"others")
    assert await cache.discover(source) == expected  # remembered: it is that content's source
    assert (copied / "data" / "model.onnx").read_bytes() == b"weights"


async def test_a_folder_that_changed_since_is_not_taken(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    source = folder_source(folder)
    expected = manifest_of(folder)
    (folder / "data" / "model.onnx").write_bytes(b"weighty")
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    with pytest.raises(ArtifactError, match="it changed before it was copied"):
        await cache.discover(source)
    with pytest.raises(ArtifactError, match=r"data/model\.onnx has another content"):
        await cache.get(expected, source)
    assert leftovers(tmp_path / "cache") == []


async def test_a_folder_that_is_not_mounted_here_is_said_so(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    source, manifest = folder_source(folder), manifest_of(folder)
    folder.rename(tmp_path / "elsewhere")
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    with pytest.raises(ArtifactError, match=r"m: the folder is not on this machine: mount"):
        await cache.get(manifest, source)


async def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "data" / "secrets").symlink_to("/etc/passwd")
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    with pytest.raises(ArtifactError, match="data/secrets is a link"):
        await cache.discover(folder_source(folder))
    assert leftovers(tmp_path / "cache") == []


async def test_a_copy_that_hangs_ends_in_time_and_is_not_begun_again(tmp_path: Path) -> None:
    """A thread that waits for the lock, which somebody else holds, stands for a disk that hangs."""
    source = folder_source(model_folder(tmp_path / "m"))
    cache = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=0.2)
    await cache.clean()
    with CacheFolder(tmp_path / "cache").lock(source_key(source)):
        with pytest.raises(ArtifactError, match="no end after"):
            await cache.discover(source)
        with pytest.raises(ArtifactError, match="hangs still"):
            await cache.discover(source)
    patient = ArtifactCache(tmp_path / "cache", BOUND, timeout_s=60)
    assert await patient.discover(source) == manifest_of(tmp_path / "m")


def test_a_copy_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(ArtifactError, match="not wanted"):
        copy_content(model_folder(tmp_path / "m"), tmp_path / "copy", "", stop)


def test_a_file_name_that_is_not_utf_8_is_an_error_of_the_artifacts(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / os.fsdecode(b"caf\xe9.onnx")).write_text("weights")
    with pytest.raises(ArtifactError, match="no name in UTF-8"):
        manifest_of(folder)
    with pytest.raises(ArtifactError, match="no name in UTF-8"):
        content_of(folder)
