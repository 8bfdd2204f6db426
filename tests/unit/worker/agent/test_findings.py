"""What an agent remembers of findings, with a store that may be away."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.findings import Finding
from penstock.shared.process.clock import SystemClock
from penstock.worker.agent import findings as module
from penstock.worker.agent.findings import OWN_ENVIRONMENT, Findings, FindingsFolder, Place
from tests.support.memory_store import MemoryStateStore

PLACE = Place("m/1-a", OWN_ENVIRONMENT, "cpu")


def finding(rows: int) -> Finding:
    interface = ModelInterface(inputs=(), outputs=(), max_batch_size=rows, platform="fake")
    return Finding(interface=interface, merges=rows > 0)


class Store(MemoryStateStore):
    away = False
    reads = 0

    async def findings(self, revision: str) -> dict[str, Finding]:
        if self.away:
            raise StateStoreError("away")
        self.reads += 1
        return await super().findings(revision)

    async def put_finding(self, revision: str, place: str, finding: Finding) -> Finding:
        if self.away:
            raise StateStoreError("away")
        return await super().put_finding(revision, place, finding)

    async def findings_lowered(self) -> int:
        if self.away:
            raise StateStoreError("away")
        return await super().findings_lowered()


@pytest.fixture
def store() -> Store:
    return Store(SystemClock())


def agent(store: Store, folder: Path | None) -> Findings:
    return Findings(store, folder, ("cpu", "cuda:0"), lambda: "own")


async def looked(findings: Findings) -> Finding | None:
    await findings.look(PLACE.revision, PLACE.environment)
    await findings.written()
    return findings.known(PLACE)


async def test_another_agent_learns_from_the_store(store: Store) -> None:
    first = agent(store, None)
    first.remember(PLACE, finding(8))
    await first.written()
    assert await store.findings("m/1-a") == {"own/cpu": finding(8)}
    assert await looked(agent(store, None)) == finding(8)


async def test_a_lower_one_that_is_known_holds(store: Store) -> None:
    findings = agent(store, None)
    findings.remember(PLACE, finding(0))
    findings.remember(PLACE, finding(8))
    assert findings.known(PLACE) == finding(0)
    await findings.written()
    assert await looked(findings) == finding(0)


async def test_the_file_serves_while_the_store_is_away(store: Store, tmp_path: Path) -> None:
    first = agent(store, tmp_path / "findings")
    first.remember(PLACE, finding(8))
    await first.written()
    store.away = True
    assert await looked(agent(store, tmp_path / "findings")) == finding(8)


async def test_a_store_that_was_emptied_is_told_again(store: Store, tmp_path: Path) -> None:
    first = agent(store, tmp_path)
    first.remember(PLACE, finding(8))
    await first.written()
    emptied = Store(SystemClock())
    assert await looked(agent(emptied, tmp_path)) == finding(8)
    assert await emptied.findings("m/1-a") == {"own/cpu": finding(8)}


async def test_what_the_store_was_not_told_it_is_told_later(store: Store) -> None:
    findings = agent(store, None)
    store.away = True
    findings.remember(PLACE, finding(0))
    await findings.written()
    store.away = False
    assert await store.findings("m/1-a") == {}
    assert await looked(findings) == finding(0)
    assert await store.findings("m/1-a") == {"own/cpu": finding(0)}


async def test_the_stores_word_wins_over_the_file_if_it_is_lower(
    store: Store, tmp_path: Path
) -> None:
    first = agent(store, tmp_path)
    first.remember(PLACE, finding(8))
    await first.written()
    await store.put_finding("m/1-a", "own/cpu", finding(0))
    assert await looked(agent(store, tmp_path)) == finding(0)


async def test_other_environments_and_devices_are_not_told(store: Store) -> None:
    await store.put_finding("m/1-a", "other/cpu", finding(8))
    await store.put_finding("m/1-a", "own/cuda:0", finding(8))
    assert await looked(agent(store, None)) is None


async def test_a_disk_that_cannot_be_written_harms_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = agent(store, tmp_path / "file")
    findings.remember(PLACE, finding(8))
    await findings.written()
    assert await store.findings("m/1-a") == {"own/cpu": finding(8)}
    assert await looked(findings) == finding(8)


async def test_a_store_that_hangs_delays_no_load_for_long_and_is_heard_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = asyncio.Event()

    class Hanging(Store):
        async def findings(self, revision: str) -> dict[str, Finding]:
            await answers.wait()
            return {"own/cpu": finding(8)}

    monkeypatch.setattr(module, "LOOK_TIMEOUT_S", 0.01)
    findings = agent(Hanging(SystemClock()), None)
    await findings.look(PLACE.revision, PLACE.environment)
    assert findings.known(PLACE) is None
    answers.set()
    async with asyncio.timeout(10):
        while findings.known(PLACE) is None:
            await asyncio.sleep(0)
    assert findings.known(PLACE) == finding(8)


def test_files_are_bounded_and_those_not_used_for_longest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 2)
    folder = FindingsFolder(tmp_path)
    for age, name in ((300, "a"), (200, "b")):
        folder.write(name, finding(8))
        (path,) = [each for each in tmp_path.iterdir() if each.stat().st_mtime > 1e9]
        os.utime(path, (1e9 - age, 1e9 - age))
    folder.write("c", finding(8))
    assert [folder.read(name) is not None for name in "abc"] == [False, True, True]


def test_a_spoilt_file_is_as_good_as_none(tmp_path: Path) -> None:
    folder = FindingsFolder(tmp_path)
    folder.write("a", finding(8))
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    assert folder.read("a") is None
    folder.write("a", finding(4))
    assert folder.read("a") == finding(4)


async def caught_up(findings: Findings) -> list[Place]:
    """Where less is known to hold after catching up."""
    lowered: list[Place] = []
    findings.listen(lowered.append)
    await findings.catch_up({PLACE.revision})
    return lowered


async def test_what_another_worker_lowered_is_heard_of_once(store: Store) -> None:
    ours, theirs = agent(store, None), agent(store, None)
    ours.remember(PLACE, finding(8))
    await ours.written()
    assert await looked(ours) == await looked(theirs) == finding(8)
    assert await caught_up(ours) == []
    theirs.remember(PLACE, finding(0))
    await theirs.written()
    assert await caught_up(ours) == [PLACE]
    assert ours.known(PLACE) == finding(0)
    assert await caught_up(ours) == []


async def test_findings_are_read_only_where_one_was_lowered(store: Store) -> None:
    findings = agent(store, None)
    await looked(findings)
    await caught_up(findings)
    reads = store.reads
    await store.put_finding("m/1-a", "own/cpu", finding(8))
    await caught_up(findings)
    assert store.reads == reads
    await store.put_finding("other/1-a", "own/cpu", finding(8))
    await store.put_finding("other/1-a", "own/cpu", finding(4))
    assert await caught_up(findings) == []
    assert store.reads == reads + 1


async def test_what_was_lowered_while_the_store_was_away_is_heard_of_later(store: Store) -> None:
    ours, theirs = agent(store, None), agent(store, None)
    ours.remember(PLACE, finding(8))
    await ours.written()
    await looked(ours)
    await caught_up(ours)
    theirs.remember(PLACE, finding(4))
    await theirs.written()
    store.away = True
    assert await caught_up(ours) == []
    store.away = False
    assert await caught_up(ours) == [PLACE]


async def test_what_is_owed_to_the_store_is_written_as_soon_as_it_answers(store: Store) -> None:
    findings = agent(store, None)
    store.away = True
    findings.remember(PLACE, finding(0))
    await findings.written()
    store.away = False
    await caught_up(findings)
    await findings.written()
    assert await store.findings("m/1-a") == {"own/cpu": finding(0)}


async def test_who_puts_a_finding_where_a_lower_one_is_kept_hears_of_that(store: Store) -> None:
    await store.put_finding("m/1-a", "own/cpu", finding(0))
    findings, lowered = agent(store, None), list[Place]()
    findings.listen(lowered.append)
    findings.remember(PLACE, finding(8))  # two trials at the same time
    await findings.written()
    assert lowered == [PLACE]
