"""Payloads and results of jobs that are too large for the job store: files in a folder, or objects.

A *name* is the job's id and 32 hex digits of chance, so nobody guesses one, and a job may have
several. Its first 12 digits are the milliseconds at which the job's id was made: a sweep knows how
old a blob may be without asking for times, which each kind of storage tells in a way of its own.

Each namespace of a job store has a folder of its own, `<namespace>.jobs`, below the place that
namespaces may share: to any other store, its blobs would be orphans.

Who writes a blob puts its name into the job's record afterwards. If they die between the two, or
the record refuses it, nobody knows of the blob: `sweep` removes such orphans once their job is
gone.

Local folders are written by this module, with an fsync; everything else by fsspec, where an object
that was acknowledged is as durable as its service makes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from fsspec.core import url_to_fs

from penstock.shared.contracts.errors import (
    ErrorCode,
    PenstockError,
    StateStoreError,
    StoreFullError,
)
from penstock.shared.wire.tensors import Buffer

FAILURES_MAX = 5
"""Deletions that may fail in one call; with storage that is away, each may take a minute."""

CHANCE_BYTES = 16

SLICE = 1024 * 1024
"""Bytes that are copied at once: 0.1 ms."""

LOCAL = frozenset({"file", "local"})
"""Schemes of URLs that mean a folder."""

_NAME = re.compile(r"([0-9a-f]{12})[0-9a-f]{20}-[0-9a-f]{32}")
_HALF = ".part"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlobGoneError(PenstockError):
    """There is no such blob: it was collected with its job, or lost with its storage."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.INTERNAL, "the job's data is no longer there")


class _Storage(Protocol):
    """Where blobs lie. All methods block, may be called by any thread, and raise `OSError`."""

    def write(self, name: str, data: Buffer) -> None: ...

    def read(self, name: str) -> bytes: ...

    def remove(self, name: str) -> None: ...

    def names(self) -> Iterator[str]: ...


class BlobStore:
    """Keeps blobs. Blocks; any number of threads may use one.

    Args:
        url: a folder's path, or a URL of fsspec (`file://`, `s3://BUCKET/PREFIX`, ...); processes
            that share a job store need the same.
        namespace: of the job store.
        wall_s: the time in seconds since 1970.

    Raises:
        PenstockError: if the URL cannot be understood, or needs a package that is missing. Nothing
            is read or written yet.
    """

    def __init__(self, url: str, namespace: str, wall_s: Callable[[], float] = time.time) -> None:
        self._storage = _storage_at(url, f"{quote(namespace, safe='')}.jobs")
        self._wall_s = wall_s

    def put(self, job_id: str, data: Buffer) -> str:
        """Keep bytes for a job, whole or not at all; returns their name once they are durable.

        Args:
            job_id: of `penstock.shared.jobs.ids`.
            data: the bytes.

        Raises:
            StoreFullError: if there is no room.
            StateStoreError: if the storage does not take them for another reason.
        """
        name = f"{job_id}-{secrets.token_hex(CHANCE_BYTES)}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{job_id!r} is no id of a job")
        with _explained("write"):
            self._storage.write(name, data)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a blob.

        Raises:
            BlobGoneError: if there is no such blob.
            StateStoreError: if the storage does not answer.
        """
        if not _NAME.fullmatch(name):
            raise BlobGoneError
        with _explained("read"):
            try:
                return self._storage.read(name)
            except FileNotFoundError:
                raise BlobGoneError from None

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete blobs; returns those that are gone now, also if they were gone before.

        Raises:
            StateStoreError: if none could be deleted, and why.
        """
        gone: list[str] = []
        failures: list[StateStoreError] = []
        for name in names:
            try:
                self._delete(name)
                gone.append(name)
            except StateStoreError as error:
                failures.append(error)
                if len(failures) >= FAILURES_MAX:
                    break
        if failures and not gone:
            raise failures[0]
        return gone

    def sweep(self, older_than_s: float, known: Callable[[str], bool]) -> int:
        """Delete what belongs to jobs that nobody knows; returns how many blobs that were.

        Args:
            older_than_s: younger jobs are left alone: theirs may be about to be submitted.
            known: whether there is a job of this id; asked once for each of its blobs.

        Raises:
            StateStoreError: if the storage does not answer.
        """
        newest_ms = int((self._wall_s() - older_than_s) * 1000)
        swept = 0
        for name in self._names():
            match = _NAME.fullmatch(name.removesuffix(_HALF))
            if match is None or int(match[1], 16) > newest_ms or known(name.partition("-")[0]):
                continue
            with _explained("delete"), suppress(FileNotFoundError):
                self._storage.remove(name)
            swept += 1
        return swept

    def _names(self) -> list[str]:
        with _explained("list"):
            try:
                return list(self._storage.names())
            except FileNotFoundError:  # nothing was written yet
                return []

    def _delete(self, name: str) -> None:
        if _NAME.fullmatch(name):
            with _explained("delete"), suppress(FileNotFoundError):
                self._storage.remove(name)


class _Folder:
    """A local folder; it is made when something is first written, as durable as that."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, data: Buffer) -> None:
        if not self._path.exists():
            self._make()
        half = self._path / f"{name}{_HALF}"
        try:
            with half.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            half.replace(self._path / name)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        _sync(self._path)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def names(self) -> Iterator[str]:
        with os.scandir(self._path) as entries:
            yield from (entry.name for entry in entries)

    def _make(self) -> None:
        missing = [path for path in (self._path, *self._path.parents) if not path.exists()]
        self._path.mkdir(parents=True, exist_ok=True)
        for path in missing:
            _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make a folder's list of names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Remote:
    """Objects below a path of an fsspec file system.

    Nothing is made for them: for some file systems that would be a bucket, by a name that may be a
    slip of the pen.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files = files
        self._path = path

    def write(self, name: str, data: Buffer) -> None:
        self._files.pipe_file(f"{self._path}/{name}", _as_bytes(data))

    def read(self, name: str) -> bytes:
        data: bytes = self._files.cat_file(f"{self._path}/{name}")
        return data

    def remove(self, name: str) -> None:
        self._files.rm_file(f"{self._path}/{name}")

    def names(self) -> Iterator[str]:
        for path in self._files.ls(self._path, detail=False):
            yield path.rpartition("/")[2]


def _as_bytes(data: Buffer) -> bytes:
    """Bytes as they are; else a copy in slices, since joining views holds the interpreter."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return b"".join([bytes(view[at : at + SLICE]) for at in range(0, len(view), SLICE)])


def _storage_at(url: str, folder: str) -> _Storage:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in LOCAL:
        return _Folder(Path(rest if separator else url).expanduser().absolute() / folder)
    try:
        files, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise _unusable(scheme, f"a package is missing: {error}") from error
    except Exception as error:  # whatever a file system has to say about its URL
        raise _unusable(scheme, str(error)) from error
    return _Remote(files, f"{path.rstrip('/')}/{folder}")


def _unusable(scheme: str, why: str) -> PenstockError:
    """The rest of the URL is not shown: it may hold a password."""
    return PenstockError(ErrorCode.INTERNAL, f"blobs at a {scheme}:// URL: {why}")


@contextmanager
def _explained(verb: str) -> Iterator[None]:
    """Errors of the storage become ours."""
    try:
        yield
    except PenstockError:
        raise
    except Exception as error:  # fsspec lets its client libraries' own errors through
        kind = type(error).__name__
        message = f"could not {verb} a blob: {kind}: {error}"
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StoreFullError(message) from error
        raise StateStoreError(message) from error
