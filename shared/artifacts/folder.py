"""Model artifacts on a node's disk, each stored once under the digest of its content.

    <cache>/<digest>/            a model folder, complete and read-only
    <cache>/tmp/<key>/           one being written, by whoever holds the lock of that key
    <cache>/locks/<key>          lock files; a key is the digest of a source
    <cache>/sources/<key>.json   the manifest that was found at a source with an identity

The kernel drops the lock of a process that dies, so what lies under `tmp` without a locked key is
left over, and is removed. A folder gets its final name only when its content was hashed, and loses
it before anything in it is removed, so what has a digest for a name is whole. Others evict and
clean at the same time: what vanishes meanwhile is no error.

This is the disk, and blocks. Content is written by `penstock.shared.artifacts.fetch`, in a process
of its own, or by `penstock.shared.artifacts.copy`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import orjson
from pydantic import ValidationError

from penstock.shared.artifacts.flavors import folder_streams
from penstock.shared.contracts.deployment import ArtifactFile, ArtifactManifest, ArtifactSource
from penstock.shared.contracts.errors import ErrorCode, PenstockError

RECENTLY_USED_S = 600.0
"""A folder used so lately is not evicted: whoever asked for it may be about to open it."""

SOURCES_MAX = 10_000
"""Most remembered manifests; beyond, the oldest are forgotten."""

_CHUNK_BYTES = 1024 * 1024


class ArtifactError(PenstockError):
    """Artifacts could not be had, or are not what desired state says."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)


def manifest_of(folder: Path) -> ArtifactManifest:
    """All files of a folder with their digests.

    Raises:
        ArtifactError: if there are none, or one is a link or otherwise no plain file.
    """
    files: list[ArtifactFile] = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        relative = path.relative_to(folder).as_posix()
        if not is_text(relative):
            raise ArtifactError(f"{os.fsencode(relative)!r} is no name in UTF-8")
        if stat.S_ISREG(mode):
            files.append(
                ArtifactFile(path=relative, size=path.stat().st_size, sha256=_sha256(path))
            )
        elif not stat.S_ISDIR(mode):
            raise ArtifactError(f"{relative} is a link or a special file, which no model needs")
    if not files:
        raise ArtifactError("there are no files")
    by_path = tuple(sorted(files, key=lambda file: file.path))
    return ArtifactManifest(files=by_path, streams=folder_streams(folder))


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, as all documents are in which it is written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def verify(folder: Path, manifest: ArtifactManifest) -> None:
    """Read everything and compare it with the manifest.

    Raises:
        ArtifactError: naming the first file that differs.
    """
    found = {file.path: file for file in manifest_of(folder).files}
    expected = {file.path: file for file in manifest.files}
    for path in sorted({*found, *expected}):
        if path not in found:
            raise ArtifactError(f"{path} is missing")
        if path not in expected:
            raise ArtifactError(f"{path} is there, but not in the manifest")
        if found[path] != expected[path]:
            raise ArtifactError(f"{path} has another content than the manifest says")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _leaves_folder(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not parts or path.startswith("/") or ".." in parts


def source_key(source: ArtifactSource) -> str:
    """A name for a source that is safe in a path."""
    content = orjson.dumps([source.uri, source.tracking_uri, source.identity])
    return hashlib.sha256(content).hexdigest()


class CacheFolder:
    """The cache on disk. Methods block; those that write want the source's lock to be held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._temporary = self.folder / "tmp"
        self._locks = self.folder / "locks"
        self._sources = self.folder / "sources"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.folder, self._temporary, self._locks, self._sources):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, manifest: ArtifactManifest) -> Path | None:
        """The folder with this content, marked as used now; None if it is not whole here."""
        folder = self.folder / manifest.digest
        for file in manifest.files:
            if _leaves_folder(file.path):
                raise ArtifactError(f"{file.path} would leave the model's folder")
            try:
                if (folder / file.path).lstat().st_size != file.size:
                    return None
            except OSError:
                return None
        with suppress(OSError):
            os.utime(folder)
        return folder

    def remembered(self, source: ArtifactSource) -> ArtifactManifest | None:
        """The manifest that was found at a source, if the source cannot have changed since."""
        try:
            manifest = ArtifactManifest.model_validate_json(self._note(source).read_bytes())
        except (OSError, ValidationError):
            return None
        # A note from before manifests knew whether a model streams is as good as none.
        return manifest if "streams" in manifest.model_fields_set else None

    @contextmanager
    def lock(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a key; gives False if it is taken and `wait` is not set.

        The file goes away with the lock, so a lock counts only if its file still has the name.
        """
        path = self._locks / key
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(descriptor).st_ino:
                        break
            except BlockingIOError:
                os.close(descriptor)
                yield False
                return
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def fresh_temporary(self, key: str) -> Path:
        """An empty folder to write in; what a dead process left there is removed."""
        folder = self._temporary / key
        _remove(folder)
        folder.mkdir()
        return folder

    def discard_temporary(self, key: str) -> None:
        """Remove what was written under a key and not published."""
        _remove(self._temporary / key)

    def written_bytes(self, key: str) -> int:
        """What was written so far, by whoever holds the key."""
        return _size(self._temporary / key)

    def obtain(
        self,
        source: ArtifactSource,
        manifest: ArtifactManifest | None,
        write: Callable[[Path], Path],
    ) -> ArtifactManifest:
        """Have a source's content written, hash it, compare and publish it.

        If somebody else just did, while the source's lock was waited for, nothing is written.

        Args:
            manifest: what must come out, if that is known.
            write: puts the content somewhere below a folder, and says where.

        Raises:
            ArtifactError: if anything is not as it should be.
        """
        self.prepare()
        key = source_key(source)
        with self.lock(key):
            known = manifest or self.remembered(source)
            if known is not None and self.path(known) is not None:
                return known
            temporary = self.fresh_temporary(key)
            try:
                written = write(temporary)
                if manifest is not None:
                    verify(written, manifest)
                found = manifest or manifest_of(written)
                if self.path(found) is None:
                    self.publish(written, found)
                self.remember(source, found)
            finally:
                self.discard_temporary(key)
        return found

    def remember(self, source: ArtifactSource, manifest: ArtifactManifest) -> None:
        """Note what lies at a source; one without an identity may change, and is not noted."""
        if source.identity:
            note = self._temporary / f"{source_key(source)}.json"
            note.write_text(manifest.model_dump_json())
            note.replace(self._note(source))

    def publish(self, written: Path, manifest: ArtifactManifest) -> None:
        """Give a written folder its final name, read-only and synced."""
        target = self.folder / manifest.digest
        for path in written.rglob("*"):
            if path.is_file():
                _make_read_only(path)
                _sync(path)
        for path in written.rglob("*"):
            if path.is_dir():
                _make_read_only(path)
        if target.exists():  # broken, or it would have been found
            self._discard(target)
        written.rename(target)
        _make_read_only(target)
        _sync(self.folder)

    def evict(self, protected: Collection[str], max_bytes: int, now: float) -> list[str]:
        """Remove what was not used for longest until the rest fits; returns the digests.

        Args:
            protected: digests to keep whatever it takes.
            now: wall-clock time.
        """
        entries = [(used_at, _size(path), path) for path, used_at in _by_use(self._entries())]
        total = sum(size for _, size, _ in entries)
        evicted: list[str] = []
        for used_at, size, path in entries:
            recent = now - used_at < RECENTLY_USED_S
            if total <= max_bytes:
                break
            if path.name not in protected and not recent and self._discard(path, used_at):
                evicted.append(path.name)
                total -= size
        return evicted

    def clean(self) -> None:
        """Remove what dead processes left, and notes beyond the bound."""
        for path in self._temporary.iterdir():
            with self.lock(path.name.removesuffix(".json"), wait=False) as free:
                if free:
                    _remove(path)
        notes = _by_use(self._sources.iterdir())
        for path, _ in notes[: max(0, len(notes) - SOURCES_MAX)]:
            path.unlink(missing_ok=True)

    def _discard(self, folder: Path, used_at: float | None = None) -> bool:
        """Take a folder's name away, and then remove it; whether it was here to be removed.

        Args:
            used_at: when it was used last; if that was later, somebody uses it now. None: whenever.
        """
        aside = self._temporary / f"{folder.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            if used_at is not None and folder.stat().st_mtime != used_at:
                return False
            folder.chmod(0o755)  # or it could not be moved
            folder.rename(aside)
        except FileNotFoundError:
            return False
        _remove(aside)
        return True

    def _entries(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if len(path.name) == 64]

    def _note(self, source: ArtifactSource) -> Path:
        return self._sources / f"{source_key(source)}.json"


def _by_use(paths: Iterable[Path]) -> list[tuple[Path, float]]:
    """Those that are there still, and when they were used last, those of long ago first."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((path, path.stat().st_mtime))
    return sorted(found, key=lambda each: each[1])


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # which passes over what vanishes
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def _make_read_only(path: Path) -> None:
    """For whoever may read it: that is the umask's to say."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder, whose own folders may be read-only."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with suppress(OSError):
        path.chmod(0o700)
    for place, names, _ in os.walk(path):
        for name in names:
            with suppress(OSError):
                if not Path(place, name).is_symlink():
                    Path(place, name).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
