"""Artifacts for services: a folder for a manifest, a manifest for a source.

Agents and registry_sync of one node share the folder. What MLflow keeps is downloaded by a child
process (`penstock.shared.artifacts.fetch`), what lies in a folder is copied by a thread; either
holds the source's lock meanwhile: whoever else wants it waits in a child or thread of its own and
then finds it there. Next stop: `penstock.shared.artifacts.folder`, the disk.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from pathlib import Path
from weakref import WeakValueDictionary

from pydantic import BaseModel

from penstock.shared.artifacts.copy import copy_content
from penstock.shared.artifacts.folder import ArtifactError, CacheFolder, source_key
from penstock.shared.contracts.deployment import ArtifactManifest, ArtifactSource
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.child_task import TaskOutcome, run_child_task
from penstock.shared.process.telemetry import get_logger

__all__ = ["ArtifactCache", "ArtifactError", "FetchOutcome", "FetchRequest"]

PROGRESS_INTERVAL_S = 10.0
"""How often a download in progress is logged."""


class FetchRequest(BaseModel):
    """What a fetching child is asked for; `manifest` is what must come out, if that is known."""

    source: ArtifactSource
    manifest: ArtifactManifest | None = None


class FetchOutcome(TaskOutcome):
    """What it answers: a manifest, or an error."""

    manifest: ArtifactManifest | None = None


class ArtifactCache:
    """What services use: artifacts by manifest, manifests by source.

    Args:
        folder: the cache, shared by the services of a node.
        max_bytes: folders beyond this are evicted, save those that are protected or in use.
        timeout_s: longest fetch, the wait for somebody else's included.
    """

    def __init__(self, folder: Path, max_bytes: int, timeout_s: float = 3600.0) -> None:
        self._disk = CacheFolder(folder)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._protected: frozenset[str] = frozenset()
        self._copies: dict[str, threading.Event] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._log = get_logger("artifacts")

    def keep_only(self, digests: Collection[str]) -> None:
        """Name the digests that must not be evicted from now on: all that desired state names."""
        self._protected = frozenset(digests)

    async def clean(self) -> None:
        """Remove what dead processes left, and what exceeds the bound.

        Raises:
            ArtifactError: if the folder cannot be written.
        """
        try:
            await in_thread(self._clean)
        except OSError as error:
            raise ArtifactError(f"artifact cache {self._disk.folder}: {error.strerror}") from error

    async def get(self, manifest: ArtifactManifest, source: ArtifactSource) -> Path:
        """The folder with this content, downloaded from `source` if it is not here.

        Raises:
            ArtifactError: if it could not be had, or differs from the manifest.
        """
        folder = await in_thread(lambda: self._disk.path(manifest))
        if folder is None:
            await self._fetch(FetchRequest(source=source, manifest=manifest))
            folder = await in_thread(lambda: self._disk.path(manifest))
        if folder is None:
            raise ArtifactError(f"{source.uri} vanished from the cache as soon as it was there")
        return folder

    async def discover(self, source: ArtifactSource) -> ArtifactManifest:
        """The manifest of what lies at `source`, downloaded unless it is remembered.

        Raises:
            ArtifactError: if it could not be had.
        """
        remembered = await in_thread(lambda: self._disk.remembered(source))
        if remembered is not None:
            return remembered
        return await self._fetch(FetchRequest(source=source))

    def _clean(self) -> None:
        self._disk.prepare()
        self._disk.clean()
        evicted = self._disk.evict(self._protected, self._max_bytes, time.time())
        if evicted:
            self._log.info("artifacts evicted", digests=[digest[:12] for digest in evicted])

    async def _fetch(self, request: FetchRequest) -> ArtifactManifest:
        key = source_key(request.source)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            await self.clean()
            if request.source.folder is not None:
                outcome = await self._copy(request, Path(request.source.folder), key)
            else:
                outcome = await self._run_child(request, key)
        if outcome.manifest is None:
            raise ArtifactError(f"{request.source.uri}: {outcome.error}")
        await self.clean()
        return outcome.manifest

    async def _copy(self, request: FetchRequest, folder: Path, key: str) -> FetchOutcome:
        """Copy a folder in a thread, which nobody waits for if the folder's disk hangs."""
        self._copies = {key: ended for key, ended in self._copies.items() if not ended.is_set()}
        if key in self._copies:
            return FetchOutcome(error="an earlier copy of it hangs still")
        stop, ended = threading.Event(), threading.Event()

        def copy() -> FetchOutcome:
            try:
                return self._copied(request, folder, stop)
            finally:
                ended.set()

        self._copies[key] = ended
        try:
            async with asyncio.timeout(self._timeout_s):
                return await in_thread(copy)
        except TimeoutError:
            return FetchOutcome(error=f"no end after {self._timeout_s:.0f} s")
        finally:
            stop.set()

    def _copied(self, request: FetchRequest, folder: Path, stop: threading.Event) -> FetchOutcome:
        # What must come out may be known, and the folder may have been touched since.
        identity = "" if request.manifest is not None else request.source.identity

        def write(temporary: Path) -> Path:
            copy_content(folder, temporary / "model", identity, stop)
            return temporary / "model"

        try:
            manifest = self._disk.obtain(request.source, request.manifest, write)
        except ArtifactError as error:
            return FetchOutcome(error=error.message)
        except OSError as error:
            return FetchOutcome(error=f"the cache cannot be written: {error.strerror}")
        return FetchOutcome(manifest=manifest)

    async def _run_child(self, request: FetchRequest, key: str) -> FetchOutcome:
        progress = asyncio.create_task(self._tell_progress(request.source.uri, key))
        try:
            return await run_child_task(
                "fetching",
                "penstock.shared.artifacts.fetch",
                self._disk.folder,
                request,
                FetchOutcome,
                timeout_s=self._timeout_s,
            )
        finally:
            progress.cancel()

    async def _tell_progress(self, uri: str, key: str) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            written = await in_thread(lambda: self._disk.written_bytes(key))
            self._log.info("fetching", uri=uri, mib=round(written / 2**20, 1))
