"""Blobs: kept whole, read back, deleted, swept; on a folder and on a file system of fsspec."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from penstock.shared.contracts.errors import (
    ErrorCode,
    PenstockError,
    StateStoreError,
    StoreFullError,
)
from penstock.shared.jobs.blobs import FAILURES_MAX, BlobGoneError, BlobStore
from penstock.shared.jobs.ids import JobIds, new_job_id

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0
NAMESPACE = "test"


URLS = ("{}/a/blobs", "file://{}/blobs", "memory://{}/blobs")
"""A folder by both of its names, and a file system of fsspec."""


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Storage that is not made yet."""
    return str(request.param).format(tmp_path)


def job_id_of(age_s: float) -> str:
    return JobIds(lambda: NOW_S - age_s).next()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_what_is_put_is_got(url: str, size: int, kind: type[bytes]) -> None:
    store = BlobStore(url, NAMESPACE)
    data = os.urandom(size)
    name = store.put(new_job_id(), kind(data))
    assert store.get(name) == data
    assert BlobStore(url, NAMESPACE).get(name) == data


def test_a_job_has_several_blobs_under_names_that_tell_nothing(url: str) -> None:
    store = BlobStore(url, NAMESPACE)
    job_id = new_job_id()
    names = [store.put(job_id, b"%d" % number) for number in range(20)]
    assert len(set(names)) == 20
    assert all(name.startswith(f"{job_id}-") and len(name) == 65 for name in names)
    assert [store.get(name) for name in names] == [b"%d" % number for number in range(20)]


def test_deleting_again_is_the_same(url: str) -> None:
    store = BlobStore(url, NAMESPACE)
    name = store.put(new_job_id(), b"x")
    other = store.put(new_job_id(), b"y")
    absent = f"{new_job_id()}-{'0' * 32}"
    assert store.delete([name, absent]) == [name, absent]
    assert store.delete([name]) == [name]
    assert store.delete([]) == []
    with pytest.raises(BlobGoneError):
        store.get(name)
    assert store.get(other) == b"y"


def test_before_anything_was_written(url: str) -> None:
    store = BlobStore(url, NAMESPACE)
    name = f"{new_job_id()}-{'0' * 32}"
    with pytest.raises(BlobGoneError):
        store.get(name)
    assert store.delete([name]) == [name]
    assert store.sweep(0, lambda job_id: False) == 0


@pytest.mark.parametrize("name", ["", "..", "../secret", "/etc/passwd", "a" * 32, "-" * 65])
def test_other_names_reach_nothing(url: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    store = BlobStore(url, NAMESPACE)
    store.put(new_job_id(), b"x")
    with pytest.raises(BlobGoneError):
        store.get(name)
    assert store.delete([name]) == [name]
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("job_id", ["", "job", "../x", "A" * 32, "0" * 31])
def test_only_ids_of_jobs_are_taken(url: str, job_id: str) -> None:
    with pytest.raises(ValueError, match="no id of a job"):
        BlobStore(url, NAMESPACE).put(job_id, b"x")


def test_a_sweep_takes_what_is_old_and_unknown(url: str) -> None:
    store = BlobStore(url, NAMESPACE, lambda: NOW_S)
    ages_s = (0.0, HOUR_S - 1, HOUR_S + 1, 48 * HOUR_S)
    jobs = [job_id_of(age_s) for age_s in ages_s]
    names = [store.put(job_id, b"x") for job_id in jobs for _ in range(2)]
    kept = jobs[3]
    asked: list[str] = []

    def known(job_id: str) -> bool:
        asked.append(job_id)
        return job_id == kept

    assert store.sweep(HOUR_S, known) == 2
    assert set(asked) == {jobs[2], jobs[3]}
    left = [name for name in names if name.partition("-")[0] != jobs[2]]
    assert [store.get(name) for name in left] == [b"x"] * 6
    assert store.sweep(HOUR_S, known) == 0


def test_a_sweep_takes_half_written_blobs_and_leaves_what_is_not_ours(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), NAMESPACE, lambda: NOW_S)
    folder = tmp_path / "test.jobs"
    folder.mkdir()
    half = folder / f"{job_id_of(2 * HOUR_S)}-{'0' * 32}.part"
    foreign = folder / "notes.txt"
    for path in (half, foreign):
        path.write_bytes(b"x")
    assert store.sweep(HOUR_S, lambda job_id: False) == 1
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("namespace", ["a", "", "..", "../..", "test.jobs", "/"])
def test_each_namespace_has_its_own_even_in_one_folder(url: str, namespace: str) -> None:
    ours = BlobStore(url, NAMESPACE, lambda: NOW_S)
    theirs = BlobStore(url, namespace, lambda: NOW_S)
    name, other = (store.put(job_id_of(48 * HOUR_S), b"x") for store in (ours, theirs))
    with pytest.raises(BlobGoneError):
        theirs.get(name)
    assert theirs.sweep(HOUR_S, lambda job_id: False) == 1
    assert ours.get(name) == b"x"
    with pytest.raises(BlobGoneError):
        theirs.get(other)


def test_what_asks_for_jobs_may_fail(url: str) -> None:
    store = BlobStore(url, NAMESPACE, lambda: NOW_S)
    name = store.put(job_id_of(HOUR_S), b"x")

    def known(job_id: str) -> bool:
        raise StateStoreError("no store")

    with pytest.raises(StateStoreError, match="no store"):
        store.sweep(1, known)
    assert store.get(name) == b"x"


def test_without_room_nothing_half_written_is_left(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), NAMESPACE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StoreFullError, match="too large") as caught:
            store.put(new_job_id(), bytes(3_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code is ErrorCode.STORE_FULL
    assert list((tmp_path / "test.jobs").iterdir()) == []


def test_storage_that_fails_is_an_outage(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    store = BlobStore(str(in_the_way), NAMESPACE)
    names = [f"{new_job_id()}-{'0' * 32}" for _ in range(FAILURES_MAX + 3)]
    for attempt in (
        lambda: store.put(new_job_id(), b"x"),
        lambda: store.get(names[0]),
        lambda: store.delete(names),
        lambda: store.sweep(0, lambda job_id: False),
    ):
        with pytest.raises(StateStoreError) as caught:
            attempt()
        assert caught.value.code is ErrorCode.UNAVAILABLE


def test_what_cannot_be_deleted_is_not_told_as_gone(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), NAMESPACE)
    name = store.put(new_job_id(), b"x")
    stuck = f"{new_job_id()}-{'0' * 32}"
    (tmp_path / "test.jobs" / stuck).mkdir()
    assert store.delete([stuck, name]) == [name]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense://user:password@host/x", "nonsense:// URL: Protocol not known"),
        ("gs://bucket/x", "gs:// URL: a package is missing: .*gcsfs"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, told: str) -> None:
    with pytest.raises(PenstockError, match=told) as caught:
        BlobStore(url, NAMESPACE)
    assert "password" not in caught.value.message


def test_threads_share_one(url: str) -> None:
    store = BlobStore(url, NAMESPACE)
    found: list[bool] = []

    def work(number: int) -> None:
        for turn in range(20):
            data = f"{number}/{turn}".encode()
            name = store.put(new_job_id(), data)
            found.append(store.get(name) == data and store.delete([name]) == [name])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
