"""Manifests of versions that are wished for, found out by a bounded number of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.plan.reconcile import fetch_failed
from penstock.registry_sync.plan.world import FetchFailure, Policy
from penstock.shared.artifacts.cache import ArtifactError
from penstock.shared.contracts.deployment import ArtifactManifest, ArtifactSource
from penstock.shared.process.clock import Clock
from penstock.shared.process.telemetry import get_logger

GRACE_S = 60.0
"""The cache ends a fetch by itself when its time is over. That it does not, as where the cache's
own disk hangs, must not keep others waiting for a slot."""

CLOSE_TIMEOUT_S = 5.0
"""Longest wait at the end for processes that were killed: one that waits for a disk does not go."""


class ManifestSource(Protocol):
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
        timeout_s: longest fetch, as the cache promises.
        on_change: called when a fetch ended.
        counts: where fetches are counted.
        troubles: where errors that nobody foresaw are told.
    """

    def __init__(
        self,
        artifacts: ManifestSource,
        policy: Policy,
        clock: Clock,
        parallel: int,
        timeout_s: float,
        on_change: Callable[[], None],
        counts: SyncCounts,
        troubles: Troubles,
    ) -> None:
        self._counts = counts
        self._troubles = troubles
        self._timeout_s = timeout_s
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
                task = asyncio.create_task(self._discover(source))
                self._tasks[source] = task
                task.add_done_callback(lambda _, source=source: self._ended(source))  # type: ignore[misc]

    async def close(self) -> None:
        """Give all fetches up, and wait until their processes are gone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    def _ended(self, source: ArtifactSource) -> None:
        """A fetch ended, perhaps before it began."""
        del self._tasks[source]
        self._on_change()

    async def _discover(self, source: ArtifactSource) -> None:
        async with self._slots:
            started = self._clock.monotonic()
            self._counts.fetches += 1
            try:
                async with asyncio.timeout(self._timeout_s + GRACE_S):
                    self._prepared[source] = await self._artifacts.discover(source)
            except TimeoutError:
                limit_s = self._timeout_s + GRACE_S
                self._failed(source, f"timed out after {limit_s:g} s: {source.uri}")
            except ArtifactError as error:
                self._failed(source, error.message)
            except OSError as error:  # no process can be started, no file opened
                reason = f"{type(error).__name__}: {error.strerror or error}"
                self._failed(source, f"{source.uri}: {reason}")
            except Exception as error:  # else it would be asked for again at once, and for ever
                self._troubles.fault(f"fetch of {source.uri}", error)
                self._failed(source, f"{type(error).__name__}: {error}: {source.uri}")
            else:
                self._troubles.over(f"fetch of {source.uri}")
                took_s = round(self._clock.monotonic() - started, 2)
                self._log.info("fetched", uri=source.uri, took_s=took_s)

    def _failed(self, source: ArtifactSource, message: str) -> None:
        self._counts.fetch_failures += 1
        earlier = self._prepared.get(source)
        self._prepared[source] = fetch_failed(message, earlier, self._clock.wall(), self._policy)
        self._log.error("fetch failed", uri=source.uri, error=message)
