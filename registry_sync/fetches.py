"""Manifests of versions that are wished for, found out by a bounded number of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from registry_sync.metrics import SyncCounts
from registry_sync.reconcile import fetch_failed
from registry_sync.world import FetchFailure, Policy
from shared.artifact_cache import ArtifactError
from shared.clock import Clock
from shared.deployment import ArtifactManifest, ArtifactSource
from shared.telemetry import get_logger


class Artifacts(Protocol):
    """What registry_sync needs of the artifact cache."""

    def keep_only(self, digests: Collection[str]) -> None:
        """Never evict these."""
        ...

    async def discover(self, source: ArtifactSource) -> ArtifactManifest:
        """The manifest of what lies at a source; raises `ArtifactError`."""
        ...


class Fetches:
    """Runs fetches and keeps what came of them, for as long as anybody wishes for it.

    Args:
        parallel: fetches at a time.
        on_change: called when a fetch ended.
        counts: where fetches are counted.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        policy: Policy,
        clock: Clock,
        parallel: int,
        on_change: Callable[[], None],
        counts: SyncCounts,
    ) -> None:
        self._counts = counts
        self._artifacts = artifacts
        self._policy = policy
        self._clock = clock
        self._slots = asyncio.Semaphore(parallel)
        self._on_change = on_change
        self._tasks: dict[ArtifactSource, asyncio.Task[None]] = {}
        self._prepared: dict[ArtifactSource, ArtifactManifest | FetchFailure] = {}
        self._log = get_logger("fetches")

    @property
    def prepared(self) -> dict[ArtifactSource, ArtifactManifest | FetchFailure]:
        """What came of fetches so far."""
        return dict(self._prepared)

    def want(self, now: Collection[ArtifactSource], wished: Collection[ArtifactSource]) -> None:
        """Fetch `now`, and forget or give up whatever is not in `wished`."""
        for source in [*self._prepared]:
            if source not in wished:
                del self._prepared[source]
        for source, task in [*self._tasks.items()]:
            if source not in wished:
                task.cancel()
        for source in now:
            if source not in self._tasks:
                self._tasks[source] = asyncio.create_task(self._fetch(source))

    async def close(self) -> None:
        """Give all fetches up, and wait until their processes are gone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, source: ArtifactSource) -> None:
        try:
            await self._discover(source)
        finally:
            del self._tasks[source]
            self._on_change()

    async def _discover(self, source: ArtifactSource) -> None:
        async with self._slots:
            started = self._clock.monotonic()
            self._counts.fetches += 1
            try:
                self._prepared[source] = await self._artifacts.discover(source)
            except ArtifactError as error:
                self._failed(source, error.message)
            except OSError as error:  # no process can be started, no file opened
                reason = f"{type(error).__name__}: {error.strerror or error}"
                self._failed(source, f"{source.uri}: {reason}")
            else:
                took_s = round(self._clock.monotonic() - started, 2)
                self._log.info("fetched", uri=source.uri, took_s=took_s)

    def _failed(self, source: ArtifactSource, message: str) -> None:
        self._counts.fetch_failures += 1
        earlier = self._prepared.get(source)
        self._prepared[source] = fetch_failed(message, earlier, self._clock.wall(), self._policy)
        self._log.error("fetch failed", uri=source.uri, error=message)
