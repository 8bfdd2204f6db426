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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from shared.ids import JobIds
from shared.jobs import calls
from shared.jobs.answers import IdempotencyMismatchError
from shared.jobs.blocking_store import BlockingJobStore
from shared.jobs.calls import Call
from shared.jobs.record import Content, JobState, NewJob
from shared.keys import Keys
from tests.contract.job_audit import audit
from tests.contract.job_model import JobModel, ModelJob
from tests.contract.redis_server import Server

KEYS = Keys("life")
MINUTE_MS = 60_000
TICK_MS = 1_000
"""Passes with every rule, so that no two of them happen at the same time."""

REVISIONS = {"r1": "1", "r2": "2"}


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
        self.lost: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        self.redis.close()

    def call(self, call: Call[Any], again: bool) -> Any:
        answer = self.store.run(call)
        if again:
            audit(self.redis, KEYS)
            repeated = self.store.run(call)
            if call.script not in ("reclaim", "lose", "expire", "move"):  # they tell what they did
                assert repeated == answer
            else:
                assert not repeated or call.script == "move"
        return answer

    def pass_ms(self, ms: int) -> None:
        self.model.now_ms += ms
        self.store.scripts.clock_offset_ms += ms

    # Clients

    @rule(
        priority=st.sampled_from([1, 5, 9]),
        pin=st.sampled_from(["", "", "1"]),
        attempts=st.integers(1, 3),
        ttl=st.sampled_from([0, 0, 5 * MINUTE_MS + TICK_MS // 2]),
        key=st.sampled_from(["", "", "a", "b"]),
        digest=st.sampled_from("xy"),
        again=st.booleans(),
    )
    def submit(
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
    @rule(data=st.data(), again=st.booleans())
    def cancel(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        job_id = data.draw(st.sampled_from(self.known))
        assert self.call(calls.cancel(job_id), again) == self.model.cancel(job_id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), again=st.booleans())
    def forget(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        job_id = data.draw(st.sampled_from(self.known))
        assert self.call(calls.forget(job_id), again) == self.model.forget(job_id)

    @precondition(lambda self: self.with_state(JobState.FAILED))
    @rule(data=st.data(), again=st.booleans())
    def retry(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        job_id = data.draw(st.sampled_from(self.with_state(JobState.FAILED)))
        view = self.store.run(calls.get(job_id))
        assert view is not None
        assert self.call(calls.retry(view.record), again) == self.model.retry(job_id)

    # Holders

    @rule(
        revision=st.sampled_from(sorted(REVISIONS)),
        holder=st.integers(0, 3),
        most=st.integers(1, 4),
        minutes=st.sampled_from([2, 6]),
        idle=st.booleans(),
        again=st.booleans(),
    )
    def lease(
        self, revision: str, holder: int, most: int, minutes: int, idle: bool, again: bool
    ) -> None:
        self.pass_ms(TICK_MS)
        name = f"h{holder}.{len(self.lost)}"  # a holder that was lost never comes back
        lease_ms = minutes * MINUTE_MS + TICK_MS // 2
        request = self.ids.next()
        bounds: dict[str, Any] = {"most": most, "lease_ms": lease_ms, "idle": idle}
        leased = self.call(calls.lease("m", revision, name, request, **bounds), again)
        expected = self.model.lease(revision, name, most, lease_ms, idle)
        assert [job.record.id for job in leased.jobs] == list(expected)
        for job in leased.jobs:
            assert job.body == job.record.id.encode()
            assert (job.record.id, job.record.token) not in self.leases
            self.leases.append((job.record.id, job.record.token))

    def some_lease(self, data: st.DataObject) -> tuple[str, int]:
        """Mostly a current one; else one that may be long lost."""
        current = [lease for lease in self.leases if self.is_current(*lease)]
        stale = data.draw(st.integers(0, 3)) == 0
        return data.draw(st.sampled_from(self.leases if stale or not current else current))

    def is_current(self, job_id: str, token: int) -> bool:
        job = self.model.jobs.get(job_id)
        return job is not None and job.holder != "" and job.token == token

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), beat=st.integers(1, 3), again=st.booleans())
    def heartbeat(self, data: st.DataObject, beat: int, again: bool) -> None:
        self.pass_ms(TICK_MS)
        lease, lease_ms = self.some_lease(data), 3 * MINUTE_MS + TICK_MS // 2
        outputs = [(Content("x", 4), b"part"), (Content("x", 4, f"blob-{lease[0]}"), b"")]
        call = calls.heartbeat(*lease, beat, lease_ms, calls.Progress(beat / 3), outputs)
        assert self.call(call, again) == self.model.heartbeat(*lease, beat, lease_ms)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), again=st.booleans())
    def commit(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        job_id, token = self.some_lease(data)
        body = f"{job_id} {token}".encode()
        answer = self.call(calls.commit(job_id, token, Content("x", len(body)), body), again)
        assert answer == self.model.commit(job_id, token, body)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), retryable=st.booleans(), again=st.booleans())
    def fail(self, data: st.DataObject, retryable: bool, again: bool) -> None:
        self.pass_ms(TICK_MS)
        lease = self.some_lease(data)
        call = calls.fail(*lease, "model_error", "it broke", retryable=retryable)
        assert self.call(call, again) == self.model.fail(*lease, retryable)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), again=st.booleans())
    def release(self, data: st.DataObject, again: bool) -> None:
        self.pass_ms(TICK_MS)
        lease = self.some_lease(data)
        assert self.call(calls.release(*lease), again) == self.model.release(*lease)

    # Who watches over them

    @rule(holder=st.integers(0, 3), again=st.booleans())
    def lose(self, holder: int, again: bool) -> None:
        self.pass_ms(TICK_MS)
        name = f"h{holder}.{len(self.lost)}"
        self.lost.add(name)
        assert set(self.call(calls.lose(name), again)) == self.model.lose(name)

    @rule(again=st.booleans())
    def reclaim(self, again: bool) -> None:
        self.pass_ms(TICK_MS)
        call = calls.reclaim(gap_ms=1 << 50, grace_ms=0)
        assert set(self.call(call, again)) == self.model.reclaim()

    @rule(again=st.booleans())
    def expire(self, again: bool) -> None:
        self.pass_ms(TICK_MS)
        assert set(self.call(calls.expire(), again)) == self.model.expire()

    @rule(again=st.booleans())
    def collect(self, again: bool) -> None:
        self.pass_ms(TICK_MS)
        blobs = self.call(calls.collect(), again)
        self.model.collect()
        self.store.run(calls.swept(blobs))

    @rule(source=st.sampled_from(sorted(REVISIONS)), again=st.booleans())
    def move(self, source: str, again: bool) -> None:
        self.pass_ms(TICK_MS)
        target = "r2" if source == "r1" else "r1"
        version = REVISIONS[target]
        answer = self.call(calls.move_version("m", source, target, version), again)
        assert (answer.moved, answer.failed) == self.model.move(source, target, version)

    @rule(minutes=st.sampled_from([1, 2, 4, 40]))
    def wait(self, minutes: int) -> None:
        self.pass_ms(minutes * MINUTE_MS)

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
            assert there.get(f"result:{job_id}") == job.result  # so no second commit replaced it
        for revision in REVISIONS:
            queue = there.get(f"queue:m/{revision}", {})
            waiting = [job.id.encode() for job in self.model.queue(revision)]
            assert sorted(queue, key=lambda member: (queue[member], member)) == waiting

    def with_state(self, state: JobState) -> list[str]:
        return sorted(job.id for job in self.model.jobs.values() if job.state is state)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder), appendonly="no")
        running.start()
        yield running
        running.kill()


def test_any_order_of_calls(server: Server) -> None:
    JobLife.server = server
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        JobLife,
        settings=settings(
            max_examples=60,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
