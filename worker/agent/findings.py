"""What loads of models found out, as an agent remembers it: in memory, on disk and in the store.

The store is read before a replica is spawned (`look`); what a replica says goes to memory at once,
so that the next one here is told, and then to the disk and the store (`remember`). Neither can harm
or delay anything: each is given up after a while, and logged.

    <cache>/findings/<key>.json  one finding; the key is a digest of revision, environment, device

Of two findings about the same the lower one holds, wherever it comes from. What the store lacks,
having been away or emptied, it is told when it answers.

What is lower than before is told to those who listen: replicas that run are to take it over. What
other workers lowered is found by one number of the store's, which says how often that happened:
only where it has changed are the findings themselves read (`catch_up`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pydantic import ValidationError

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.findings import Finding, lower_of
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.telemetry import get_logger
from penstock.worker.environments.requirements import installed_versions

OWN_ENVIRONMENT = ""
"""Stands for the packages of the worker itself."""

LOOK_TIMEOUT_S = 2.0
"""Longest that a load waits for what earlier ones found; beyond, the model is tried again."""

WRITE_TIMEOUT_S = 5.0
"""Longest that one finding is being written to the store, or to a disk that hangs."""

KEPT_MAX = 4096
"""Most findings that are held in memory, and that are owed to the store: the newest stay."""

FILES_MAX = 10_000
"""Most files in the folder; beyond, those that were not used for longest go."""

logger = get_logger("findings")


class FindingStore(Protocol):
    """What is needed of the store; see `penstock.shared.store.state`."""

    async def findings(self, revision: str) -> dict[str, Finding]: ...

    async def put_finding(self, revision: str, place: str, finding: Finding) -> Finding: ...

    async def findings_lowered(self) -> int: ...


@dataclass(frozen=True)
class Place:
    """What a finding holds for.

    Attributes:
        environment: digest of what is installed, or `OWN_ENVIRONMENT`.
        device: as resolved: `cpu` or `cuda:N`.
    """

    revision: str
    environment: str
    device: str


def own_environment() -> str:
    """A digest of this interpreter and of the packages that it has. Reads hundreds of files."""
    content = json.dumps([sys.version, sorted(installed_versions().items())])
    return hashlib.sha256(content.encode()).hexdigest()


class FindingsFolder:
    """Findings on a disk that agents of one node share. Methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Finding | None:
        """The finding of that name; None if there is none that can be read."""
        path = self._path(name)
        try:
            finding = Finding.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return finding

    def write(self, name: str, finding: Finding) -> None:
        """Write a finding, whole or not at all, unless a lower one is there.

        Raises:
            OSError: if it cannot be written.
        """
        kept = self.read(name)
        if kept is not None and not finding.is_lower_than(kept):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            fresh.write_text(finding.model_dump_json())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        paths = list(self._folder.iterdir())
        if len(paths) <= FILES_MAX:
            return
        ages: list[tuple[float, Path]] = []
        for path in paths:
            with suppress(OSError):  # another agent removed it
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages)[: len(ages) - FILES_MAX]:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.json"


class Findings:
    """What an agent knows of the models that it loads.

    Args:
        folder: where findings lie on disk; None: nowhere.
        devices: those of this machine.
        environment: gives the digest of the worker's own packages; runs once, in a thread.
    """

    def __init__(
        self,
        store: FindingStore,
        folder: Path | None,
        devices: Sequence[str],
        environment: Callable[[], str] = own_environment,
    ) -> None:
        self._store = store
        self._folder = FindingsFolder(folder) if folder is not None else None
        self._devices = tuple(devices)
        self._environment = environment
        self._own: asyncio.Task[str] | None = None
        self._known: dict[Place, Finding] = {}
        self._owed: dict[Place, Finding] = {}
        self._writer: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._looked: set[tuple[str, str]] = set()  # revisions and environments
        self._lowered: int | None = None
        self._on_lowered: Callable[[Place], None] = lambda place: None

    def __repr__(self) -> str:
        return f"<Findings {len(self._known)} known, {len(self._owed)} owed>"

    def listen(self, on_lowered: Callable[[Place], None]) -> None:
        """Have `on_lowered` called whenever less is known to hold for a place than was before."""
        self._on_lowered = on_lowered

    def known(self, place: Place) -> Finding | None:
        """What is known of a place, by `look`, `remember` and `catch_up`."""
        return self._known.get(place)

    async def look(self, revision: str, environment: str) -> None:
        """Learn what other loads of a revision found; gives up after `LOOK_TIMEOUT_S`.

        What is slower than that is taken in when it comes, for later replicas.
        """
        self._looked.add((revision, environment))
        task = asyncio.create_task(self._look(revision, environment))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        done, _ = await asyncio.wait({task}, timeout=LOOK_TIMEOUT_S)
        if not done:
            logger.warning("findings are slow to come: not waited for", revision=revision)

    def remember(self, place: Place, finding: Finding) -> None:
        """Take in what a replica found; a lower one that is known holds."""
        self._learn(place, finding)
        self._owe(place)

    async def catch_up(self, revisions: Collection[str]) -> None:
        """Learn what other workers lowered, if anything was lowered at all.

        Args:
            revisions: those that run here, or are to run; others are forgotten until a `look`.
        """
        self._looked = {each for each in self._looked if each[0] in revisions}
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                lowered = await self._store.findings_lowered()
            self._write_soon()  # what the store was not told while it was away
            if lowered == self._lowered:
                return
            for revision, environment in sorted(self._looked):
                await self._learn_stored(revision, environment)
        except (StateStoreError, TimeoutError) as error:
            logger.warning("lowered findings cannot be read", error=str(error))
        else:
            self._lowered = lowered

    async def written(self) -> None:
        """Wait until what was remembered is written, or was tried to be."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait({self._writer})

    async def _learn_stored(self, revision: str, environment: str) -> dict[str, Finding]:
        """Take in what the store has of a revision in an environment; by device.

        Raises:
            StateStoreError, TimeoutError: if it does not answer.
        """
        digest = await self._digest(environment)
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            stored = await self._store.findings(revision)
        places = {device: f"{digest}/{device}" for device in self._devices}
        found = {device: stored[name] for device, name in places.items() if name in stored}
        for device, finding in found.items():
            self._learn(Place(revision, environment, device), finding)
        return found

    def _learn(self, place: Place, finding: Finding) -> None:
        known = self._known.pop(place, None)
        self._known[place] = lower = lower_of(known, finding) if known else finding
        while len(self._known) > KEPT_MAX:
            del self._known[next(iter(self._known))]
        if known and lower.is_lower_than(known):
            self._on_lowered(place)

    def _owe(self, place: Place) -> None:
        self._owed.pop(place, None)
        self._owed[place] = self._known[place]
        while len(self._owed) > KEPT_MAX:
            del self._owed[next(iter(self._owed))]
        self._write_soon()

    def _write_soon(self) -> None:
        if self._owed and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write_all())

    async def _look(self, revision: str, environment: str) -> None:
        stored: dict[str, Finding] = {}
        try:
            stored = await self._learn_stored(revision, environment)
        except (StateStoreError, TimeoutError) as error:
            logger.warning("findings cannot be read", revision=revision, error=str(error))
        else:
            self._write_soon()  # what the store was not told while it was away
        digest = await self._digest(environment)
        for device in self._devices:
            place, kept = Place(revision, environment, device), stored.get(device)
            filed = await self._read_file(place, digest)
            if filed is not None and (kept is None or filed.is_lower_than(kept)):
                self._learn(place, filed)
                self._owe(place)

    async def _digest(self, environment: str) -> str:
        if environment != OWN_ENVIRONMENT:
            return environment
        if self._own is None:
            self._own = asyncio.create_task(in_thread(self._environment))
        try:
            return await asyncio.shield(self._own)
        except Exception:  # whatever packages have broken in their metadata
            logger.exception("the worker's packages cannot be listed: findings are not shared")
            self._environment = lambda: uuid4().hex  # one of our own, until we end
            self._own = asyncio.create_task(in_thread(self._environment))
            return await self._own

    async def _read_file(self, place: Place, digest: str) -> Finding | None:
        folder = self._folder
        if folder is None:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                return await in_thread(lambda: folder.read(_name(place, digest)))
        return None

    async def _write_all(self) -> None:
        """Write what is owed; what the store does not take stays owed."""
        refused: dict[Place, Finding] = {}
        while self._owed:
            place = next(iter(self._owed))
            finding = self._owed.pop(place)
            digest = await self._digest(place.environment)
            await self._write_file(place, digest, finding)
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    name = f"{digest}/{place.device}"
                    self._learn(place, await self._store.put_finding(place.revision, name, finding))
            except (StateStoreError, TimeoutError) as error:
                logger.warning(
                    "a finding is not stored yet", revision=place.revision, error=str(error)
                )
                refused[place] = finding
        self._owed = refused | self._owed

    async def _write_file(self, place: Place, digest: str, finding: Finding) -> None:
        folder = self._folder
        if folder is None:
            return
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await in_thread(lambda: folder.write(_name(place, digest), finding))
        except (OSError, TimeoutError) as error:
            logger.warning("a finding is not on disk", revision=place.revision, error=str(error))


def _name(place: Place, digest: str) -> str:
    return json.dumps([place.revision, digest, place.device])
