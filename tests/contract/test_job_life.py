"""Any order of calls, against a real server and a model of it: nothing lost, nothing doubled.

Every call is sent once or twice, at random; after every step the server's indexes and counts must
fit its records, and its records the model. Time passes in minutes, on a clock that only the test
moves, so that the machine's own speed does not matter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from penstock.shared.contracts.errors import PenstockError, StoreFullError
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import IdempotencyMismatchError, Progress
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.ids import JobIds
from penstock.shared.jobs.record import HELD, RETRYABLE, Content, JobRecord, JobState, NewJob
from penstock.shared.store.keys import Keys
from tests.contract.job_audit import Contents, audit
from tests.contract.job_model import JobModel, ModelJob
from tests.contract.redis_server import Server
from tests.support.examples import examples

KEYS = Keys("life")
MINUTE_MS = 60_000
TICK_MS = 1_000
"""Passes with every rule, so that no two of them happen at the same time."""

REVISIONS = {"r1": "1", "r2": "2"}


TELL_WHAT_THEY_DID = ("reclaim", "lose", "expire", "collect", "move")
"""Calls that find nothing to do when they are sent again, and say so."""


class JobLife(RuleBasedStateMachine):
    """Rules are calls; `model` says what they should do."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.redis: Redis = Redis.from_url(self.server.url)
        self.redis.flushall()
        self.store = BlockingJobStore(self.server.url, KEYS)
        self.model = JobModel(result_ttl_ms=30 * MINUTE_MS, dead_ttl_ms=90 * MINUTE_MS)
        self.ids = JobIds()
        self.known: list[str] = []
        self.leases: list[tuple[str, int]] = []
        self.losses = 0

    def teardown(self) -> None:
        self.store.close()
        self.redis.close()

    def call(self, call: Call[Any], again: bool) -> Any:
        answer = self.store.run(call)
        if again:
            before = audit(self.redis, KEYS)
            repeated = self.store.run(call)
            assert _but_for_clocks(audit(self.redis, KEYS)) == _but_for_clocks(before)
            if call.script not in TELL_WHAT_THEY_DID:
                assert repeated == answer
        return answer

    def pass_ms(self, ms: int) -> None:
        self.model.now_ms += ms
        self.store.scripts.clock_offset_ms += ms

    # Clients

    @rule(
        count=st.integers(1, 3),
        priority=st.sampled_from([1, 5, 9]),
        pin=st.sampled_from(["", "", "1"]),
        attempts=st.integers(1, 3),
        ttl=st.sampled_from([0, 0, 5 * MINUTE_MS + TICK_MS // 2]),
        again=st.booleans(),
    )
    def submit(
        self, count: int, priority: int, pin: str, attempts: int, ttl: int, again: bool
    ) -> None:
        for _ in range(count):
            self.submit_one(priority, pin, attempts, ttl, "", "", again)

    @rule(key=st.sampled_from("ab"), digest=st.sampled_from("xxy"), again=st.booleans())
    def submit_with_key(self, key: str, digest: str, again: bool) -> None:
        self.submit_one(5, "", 2, 0, key, digest, again)

    @precondition(lambda self: self.with_state(JobState.CANCELED, JobState.EXPIRED))
    @rule(room=st.sampled_from([0, 0, 40]), again=st.booleans())
    def submit_where_there_is_little_room(self, room: int, again: bool) -> None:
        """Inputs that are kept for a retry give way to a new one."""
        self.pass_ms(TICK_MS)
        held = int(self.redis.hget(f"{KEYS.jobs}:counts", "bytes") or 0)
        job = NewJob(id=self.ids.next(), model="m", version="1", revision="r1", max_attempts=1)
        body = job.id.encode()
        limits = calls.StoreLimits(bytes_max=held + room)
        call = calls.submit(job, Content("x", len(body)), body, limits=limits)
        if self.model.make_room(len(body) - room, len(body)):
            assert self.call(call, again).created
            self.model.submit(ModelJob(job.id, 5, "", "r1", 1, 0, self.model.now_ms), "", "")
            self.known.append(job.id)
        else:
            with pytest.raises(StoreFullError):
                self.store.run(call)

    def submit_one(
        self, priority: int, pin: str, attempts: int, ttl: int, key: str, digest: str, again: bool
    ) -> None:
        self.pass_ms(TICK_MS)
        job = NewJob(
            id=self.ids.next(),
            model="m",
            version="1",
            revision="r1",
            pin=pin,
            priority=priority,
            max_attempts=attempts,
            queue_ttl_ms=ttl,
            result_ttl_ms=self.model.result_ttl_ms,
            dead_ttl_ms=self.model.dead_ttl_ms,
            idempotency=key,
        )
        expected = self.model.submit(
            ModelJob(job.id, priority, pin, "r1", attempts, ttl, self.model.now_ms), key, digest
        )
        body = job.id.encode()
        call = calls.submit(job, Content("x", len(body)), body, digest=digest)
        if expected is None:
            with pytest.raises(IdempotencyMismatchError):
                self.call(call, again)
        else:
            submitted = self.call(call, again)
            assert (submitted.id, submitted.created) == (expected, expected == job.id)
            self.known.append(expected)

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        what=st.sampled_from(["cancel", "cancel running", "forget", "retry", "retry"]),
        again=st.booleans(),
    )
    def ask(self, data: st.DataObject, what: str, again: bool) -> None:
        self.pass_ms(TICK_MS)
        wanted = {"cancel running": [JobState.RUNNING], "retry": sorted(RETRYABLE)}.get(what, [])
        job_id = data.draw(st.sampled_from(self.with_state(*wanted) or self.known))
        if what == "forget":
            assert self.call(calls.forget(job_id), again) == self.model.forget(job_id)
        elif what != "retry":
            assert self.call(calls.cancel(job_id), again) == self.model.cancel(job_id)
        elif (view := self.store.run(calls.get(job_id))) is not None:
            self.retry(view.record, again)

    def retry(self, record: JobRecord, again: bool) -> None:
        job = self.model.jobs[record.id]
        assert (record.payload is not None) is job.has_input
        if job.state in RETRYABLE and not job.has_input:
            with pytest.raises(PenstockError, match="input is not kept"):
                self.call(calls.retry(record), again)
        else:
            assert self.call(calls.retry(record), again) == self.model.retry(record.id)
        view = self.store.run(calls.get(record.id))
        assert view is not None
        assert view.record.retries == job.retries

    # Holders

    @rule(
        data=st.data(),
        holder=st.integers(0, 2),
        most=st.integers(1, 4),
        minutes=st.sampled_from([2, 6]),
        idle=st.sampled_from([True, True, False]),
        again=st.booleans(),
    )
    def lease(
        self, data: st.DataObject, holder: int, most: int, minutes: int, idle: bool, again: bool
    ) -> None:
        self.pass_ms(TICK_MS)
        waited_for = [revision for revision in sorted(REVISIONS) if self.model.queue(revision)]
        revision = data.draw(st.sampled_from(waited_for or ["r1"]))
        name = f"h{holder}.{self.losses}"  # a holder that was lost never comes back
        lease_ms = minutes * MINUTE_MS + TICK_MS // 2
        bounds: dict[str, Any] = {"most": most, "lease_ms": lease_ms, "idle": idle}
        leased = self.call(calls.lease("m", revision, name, self.ids.next(), **bounds), again)
        expected = self.model.lease(revision, name, most, lease_ms, idle)
        assert [job.record.id for job in leased.jobs] == list(expected)
        for job in leased.jobs:
            assert job.body == job.record.id.encode()
            assert (job.record.id, job.record.token) not in self.leases
            self.leases.append((job.record.id, job.record.token))

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            [
                *("heartbeat", "commit", "commit", "commit beyond the room"),
                *("fail", "fail for good", "release"),
            ]
        ),
        bytes_max=st.sampled_from([1, calls.DEFAULT_LIMITS.bytes_max]),
        beat=st.integers(1, 3),
        again=st.booleans(),
    )
    def hold(self, data: st.DataObject, what: str, bytes_max: int, beat: int, again: bool) -> None:
        self.pass_ms(TICK_MS)
        lease = self.some_lease(data)
        body = "{} {}".format(*lease).encode()
        lease_ms = 3 * MINUTE_MS + TICK_MS // 2
        outputs = [(Content("x", 4), b"part"), (Content("x", 4, f"blob-{lease[0]}"), b"")]
        retryable = what == "fail"
        if what == "heartbeat":
            told = (Progress(beat / 3), outputs)
            call = calls.heartbeat(*lease, beat, lease_ms, *told, bytes_max=bytes_max)
            assert self.call(call, again) == self.model.heartbeat(*lease, beat, lease_ms)
        elif what == "commit beyond the room" and self.model.keeps_result(*lease):
            body = b"x" * (calls.SMALL_BYTES + 1)
            commit = calls.commit(*lease, Content("x", len(body)), body, bytes_max=1)
            with pytest.raises(StoreFullError):
                self.call(commit, again)
        elif what.startswith("commit"):
            commit = calls.commit(*lease, Content("x", len(body)), body)
            assert self.call(commit, again) == self.model.commit(*lease, body)
        elif what == "release":
            assert self.call(calls.release(*lease), again) == self.model.release(*lease)
        else:
            fail = calls.fail(*lease, "model_error", "it broke", retryable=retryable)
            assert self.call(fail, again) == self.model.fail(*lease, retryable)

    def some_lease(self, data: st.DataObject) -> tuple[str, int]:
        """A current lease, or an older one of a job that has another holder now, or any."""
        held = {job.id: job.token for job in self.model.jobs.values() if job.state in HELD}
        current = [lease for lease in self.leases if held.get(lease[0]) == lease[1]]
        stale = [lease for lease in self.leases if held.get(lease[0], lease[1]) != lease[1]]
        chosen = data.draw(st.sampled_from([current, current, stale, self.leases]))
        return data.draw(st.sampled_from(chosen or self.leases))

    # Who watches over them

    @precondition(lambda self: self.with_state(*HELD))
    @rule(data=st.data(), again=st.booleans())
    def lose(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        holders = {job.holder for job in self.model.jobs.values() if job.state in HELD}
        name = data.draw(st.sampled_from(sorted(holders)))
        self.losses += 1
        held = sorted(job.id for job in self.model.jobs.values() if job.holder == name)
        begun = data.draw(st.none() | st.sets(st.sampled_from(held)))
        assert set(self.call(calls.lose(name, begun), again)) == self.model.lose(name, begun)

    @precondition(lambda self: self.leases)
    @rule(minutes=st.sampled_from([0, 1, 2, 3, 40]), again=st.booleans())
    def sweep(self, minutes: int, again: bool) -> None:
        self.pass_ms(minutes * MINUTE_MS + TICK_MS)
        reclaim = calls.reclaim(gap_ms=1 << 50, grace_ms=0)
        assert set(self.call(reclaim, again)) == self.model.reclaim()
        self.pass_ms(TICK_MS)  # so that it is known which of two jobs ended first
        assert set(self.call(calls.expire(), again)) == self.model.expire()
        blobs = self.call(calls.collect(), again).blobs
        self.model.collect()
        self.call(calls.swept(blobs), again)

    @precondition(lambda self: self.with_state(JobState.QUEUED))
    @rule(source=st.sampled_from(sorted(REVISIONS)), again=st.booleans())
    def move(self, source: str, again: bool) -> None:
        self.pass_ms(TICK_MS)
        target = "r2" if source == "r1" else "r1"
        version = REVISIONS[target]
        answer = self.call(calls.move_version("m", source, target, version), again)
        assert (answer.moved, answer.failed) == self.model.move(source, target, version)

    # Always

    @invariant()
    def the_server_is_as_the_model_says(self) -> None:
        there = audit(self.redis, KEYS)
        records = {name[4:]: held for name, held in there.items() if name.startswith("job:")}
        assert set(records) == set(self.model.jobs)
        for job_id, fields in records.items():
            job = self.model.jobs[job_id]
            assert fields[b"state"].decode() == job.state
            assert int(fields.get(b"attempts", 0)) == job.attempts
            assert int(fields.get(b"token", 0)) == job.token
            assert int(fields.get(b"deaths", 0)) == job.deaths
            assert there.get(f"result:{job_id}") == job.result  # so no second commit replaced it
            assert (f"payload:{job_id}" in there) is job.has_input
        for revision in REVISIONS:
            queue = there.get(f"queue:m/{revision}", {})
            waiting = [job.id.encode() for job in self.model.queue(revision)]
            assert sorted(queue, key=lambda member: (queue[member], member)) == waiting

    def with_state(self, *states: JobState) -> list[str]:
        return sorted(job.id for job in self.model.jobs.values() if job.state in states)


def _but_for_clocks(there: Contents) -> Contents:
    counts = there.get("counts", {})
    return there | {"counts": {name: counts[name] for name in counts if name != b"reclaimed_ms"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder), appendonly="no")
        running.start()
        yield running
        running.kill()


def test_any_order_of_calls(server: Server) -> None:
    JobLife.server = server
    run_state_machine_as_test(
        JobLife,
        settings=examples(
            60,
            stateful_step_count=50,
            derandomize=True,
            phases=[Phase.generate],  # to shrink a failure takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
