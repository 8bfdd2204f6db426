"""A model's folder that other people write into: what is in it, whether it changed, and a copy.

Nobody tells us when a file is being written, so a content is known by what the file system says of
it: names, sizes, times and inodes. That costs no reading, and is compared before and after reading.
What a content *is*, its digest says (`penstock.shared.artifacts.folder`).

Names that begin with a dot are no content: tools put half-written files, locks and their own state
there. Neither are the files by which operators and Penstock talk to each other.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import orjson

from penstock.shared.artifacts.folder import ArtifactError, is_text

TAGS_FILE = "tags.yaml"
"""An operator's wishes, beside a model or a version."""

STATUS_FILE = "status.yaml"
"""What Penstock answers, beside a model."""

NOT_CONTENT = frozenset({TAGS_FILE, STATUS_FILE})

FILES_MAX = 10_000
"""Most files and folders of one version: all are looked at whenever the folder is."""

_CHUNK_BYTES = 8 * 1024 * 1024
"""Copied at a time: a copy that is not wanted any more ends after so much."""


@dataclass(frozen=True)
class FolderContent:
    """What lies in a folder.

    Attributes:
        files: paths relative to the folder, sorted.
        fingerprint: differs whenever anything was written; empty if there are no files.
        changed_at: wall-clock time at which the file system last noted a change of anything.
    """

    files: tuple[str, ...]
    fingerprint: str
    changed_at: float


def content_of(folder: Path) -> FolderContent:
    """Look at a folder, without reading any file.

    Raises:
        OSError: if it cannot be looked at; `FileNotFoundError` also if it changes meanwhile.
        ArtifactError: if it holds too much, or a name that is no text.
    """
    rows: list[tuple[str, int, int, int, int, int]] = []
    changed_ns = folder.stat().st_ctime_ns
    for path, status in _walk(folder):
        changed_ns = max(changed_ns, status.st_ctime_ns)
        if not stat.S_ISDIR(status.st_mode):
            # The time of change as well: that of modification can be set to what it was.
            times = (status.st_mtime_ns, status.st_ctime_ns)
            rows.append((path, status.st_mode, status.st_size, *times, status.st_ino))
    rows.sort()
    fingerprint = hashlib.sha256(orjson.dumps(rows)).hexdigest()[:32] if rows else ""
    return FolderContent(tuple(row[0] for row in rows), fingerprint, changed_ns / 1e9)


def copy_content(folder: Path, target: Path, identity: str, stop: Event) -> None:
    """Copy a model's files into a new folder.

    Args:
        identity: the fingerprint that the content must have before and after; empty: any.
        stop: set by somebody else when nobody wants the copy any more.

    Raises:
        ArtifactError: if it cannot be read, changes meanwhile, or holds what no model needs.
    """
    try:
        files = _expect(folder, identity).files
        for path in files:
            _copy_file(folder / path, target / path, path, stop)
        _expect(folder, identity)
    except FileNotFoundError as error:
        if not folder.is_dir():
            message = "is not on this machine: mount the models there, at the same path"
            raise ArtifactError(f"the folder {message}") from error
        raise ArtifactError("it changed while it was copied") from error
    except OSError as error:
        raise ArtifactError(f"it cannot be copied: {error.strerror}") from error


def _expect(folder: Path, identity: str) -> FolderContent:
    content = content_of(folder)
    if identity and content.fingerprint != identity:
        raise ArtifactError("it changed before it was copied")
    return content


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder that is content; links are not followed."""
    seen = 0
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.startswith(".") or (not prefix and entry.name in NOT_CONTENT):
                    continue
                if not is_text(entry.name):
                    raise ArtifactError(f"{os.fsencode(prefix + entry.name)!r} is no name in UTF-8")
                seen += 1
                if seen > FILES_MAX:
                    raise ArtifactError(f"there are more than {FILES_MAX} files")
                status = entry.stat(follow_symlinks=False)
                yield prefix + entry.name, status
                if stat.S_ISDIR(status.st_mode):
                    pending.append(f"{prefix}{entry.name}/")


def _copy_file(source: Path, target: Path, path: str, stop: Event) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not stat.S_ISREG(source.lstat().st_mode):
        raise ArtifactError(f"{path} is a link or a special file, which no model needs")
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            offset = 0
            while sent := os.sendfile(writing, reading, offset, _CHUNK_BYTES):
                offset += sent
                if stop.is_set():
                    raise ArtifactError("it is not wanted any more")
        finally:
            os.close(writing)
    finally:
        os.close(reading)
