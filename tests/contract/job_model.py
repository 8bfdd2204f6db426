"""What the job store should do, in plain Python: the state of every job, by docs/jobs.md alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from penstock.shared.jobs.record import FINISHED, HELD, RETRYABLE, JobState

OVERDUE = 32
SPARED = 3
SPARES = 64


@dataclass
class ModelJob:
    """One job; times are milliseconds of the model's clock."""

    id: str
    priority: int
    pin: str
    revision: str
    max_attempts: int
    queue_ttl_ms: int
    queued_ms: int
    state: JobState = JobState.QUEUED
    attempts: int = 0
    deaths: int = 0
    spared: int = 0
    token: int = 0
    beat: int = 0
    holder: str = ""
    lease_ends_ms: int = 0
    expires_ms: int = 0
    collect_ms: int = 0
    finished_ms: int = 0
    retries: int = 0
    has_input: bool = True
    dead: bool = False
    result: bytes | None = None
    closed: tuple[int, str, JobState] | None = None

    @property
    def turn(self) -> tuple[int, int, str]:
        """By when it wants to run."""
        return self.priority, self.queued_ms, self.id


@dataclass
class JobModel:
    """All jobs, and the clock."""

    result_ttl_ms: int
    dead_ttl_ms: int
    now_ms: int = 0
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    def make_room(self, bytes_over: int, input_bytes: int) -> bool:
        """Give up inputs that are kept for a retry, each of so many bytes, the oldest first."""
        spares = [
            job
            for job in self.jobs.values()
            if job.state in (JobState.CANCELED, JobState.EXPIRED) and job.has_input
        ]
        giving = []
        for job in sorted(spares, key=lambda job: (job.finished_ms, job.id))[:SPARES]:
            if bytes_over <= 0:
                break
            giving.append(job)
            bytes_over -= input_bytes
        if bytes_over <= 0 or len(spares) >= SPARES:
            for job in giving:
                job.has_input = False
        return bytes_over <= 0

    def submit(self, job: ModelJob, key: str, digest: str) -> str | None:
        """The id of the job that there is now; None if the key stands for something else."""
        if key:
            known, known_digest = self.keys.setdefault(key, (job.id, digest))
            if known_digest != digest:
                return None
            if known != job.id:
                return known
        job.expires_ms = self.now_ms + job.queue_ttl_ms if job.queue_ttl_ms else 0
        self.jobs[job.id] = job
        return job.id

    def queue(self, revision: str) -> list[ModelJob]:
        """Who waits, in order; suspects are behind the others."""
        waiting = [
            job
            for job in self.jobs.values()
            if job.state is JobState.QUEUED and job.revision == revision
        ]
        return sorted(waiting, key=lambda job: (job.deaths > 0, *job.turn))

    def lease(
        self, revision: str, holder: str, most: int, lease_ms: int, idle: bool
    ) -> Sequence[str]:
        """Ids of the jobs that the holder has now."""
        waiting = self.queue(revision)
        chosen = self._first([job for job in waiting if not job.deaths], most)
        suspects = [job for job in waiting if job.deaths] if idle else []
        for suspect in self._first(suspects, 1):
            if not chosen or suspect.turn < chosen[0].turn:
                chosen = [suspect]
        for job in chosen:
            job.state, job.holder, job.lease_ends_ms = (
                JobState.RUNNING,
                holder,
                self.now_ms + lease_ms,
            )
            job.token, job.attempts, job.beat = job.token + 1, job.attempts + 1, 0
        return [job.id for job in chosen]

    def _first(self, waiting: list[ModelJob], wanted: int) -> list[ModelJob]:
        """The first that may run; those found overdue on the way expire."""
        found: list[ModelJob] = []
        for job in waiting[: wanted + OVERDUE]:
            if len(found) == wanted:
                break
            if job.expires_ms and job.expires_ms <= self.now_ms:
                self._finish(job, JobState.EXPIRED)
            else:
                found.append(job)
        return found

    def heartbeat(self, job_id: str, token: int, beat: int, lease_ms: int) -> str:
        job = self._held(job_id, token)
        if job is None:
            return "lost"
        if beat > job.beat:
            job.beat, job.lease_ends_ms = beat, self.now_ms + lease_ms
        return "cancel" if job.state is JobState.CANCELING else "continue"

    def keeps_result(self, job_id: str, token: int) -> bool:
        """Whether a commit would bring the job a result."""
        job = self._held(job_id, token)
        return job is not None and job.state is JobState.RUNNING

    def commit(self, job_id: str, token: int, body: bytes) -> JobState | None:
        job = self._held(job_id, token)
        if job is None:
            return self._closed(job_id, token, "commit")
        if job.state is JobState.CANCELING:
            self._finish(job, JobState.CANCELED)
        else:
            self._finish(job, JobState.SUCCEEDED)
            job.result = body
        return self._close(job, "commit")

    def fail(self, job_id: str, token: int, retryable: bool) -> JobState | None:
        job = self._held(job_id, token)
        if job is None:
            return self._closed(job_id, token, "fail")
        self._end_attempt(job, final=not retryable, dead=retryable)
        return self._close(job, "fail")

    def release(self, job_id: str, token: int) -> JobState | None:
        job = self._held(job_id, token)
        if job is None:
            return self._closed(job_id, token, "release")
        if job.state is JobState.CANCELING:
            self._finish(job, JobState.CANCELED)
        else:
            job.state, job.attempts = JobState.QUEUED, job.attempts - 1
        return self._close(job, "release")

    def cancel(self, job_id: str) -> JobState | None:
        job = self.jobs.get(job_id)
        if job is None:
            return None
        if job.state is JobState.QUEUED:
            self._finish(job, JobState.CANCELED)
        elif job.state is JobState.RUNNING:
            job.state = JobState.CANCELING
        return job.state

    def forget(self, job_id: str) -> JobState | None:
        job = self.jobs.get(job_id)
        if job is None or job.state in FINISHED:
            self.jobs.pop(job_id, None)
            return None
        return job.state

    def retry(self, job_id: str) -> JobState | None:
        """The state that it has then; None if it is unknown."""
        job = self.jobs.get(job_id)
        if job is None or job.state not in RETRYABLE or not job.has_input:
            return job.state if job is not None else None
        job.state, job.dead, job.attempts, job.deaths = JobState.QUEUED, False, 0, 0
        job.spared, job.retries = 0, job.retries + 1
        job.queued_ms = self.now_ms
        job.expires_ms = self.now_ms + job.queue_ttl_ms if job.queue_ttl_ms else 0
        return job.state

    def lose(self, holder: str, begun: Collection[str] | None) -> set[tuple[str, JobState]]:
        lost = [job for job in self.jobs.values() if job.state in HELD and job.holder == holder]
        for job in lost:
            if begun is None or job.id in begun:
                job.deaths += 1
                self._end_attempt(job, final=job.deaths >= 2, dead=True)
            elif job.state is JobState.RUNNING and job.spared < SPARED:
                job.state, job.attempts, job.spared = (
                    JobState.QUEUED,
                    job.attempts - 1,
                    job.spared + 1,
                )
            else:
                self._end_attempt(job, final=False, dead=True)
        return {(job.id, job.state) for job in lost}

    def reclaim(self) -> set[tuple[str, JobState]]:
        ended = [
            job
            for job in self.jobs.values()
            if job.state in HELD and job.lease_ends_ms <= self.now_ms
        ]
        for job in ended:
            self._end_attempt(job, final=False, dead=True)
        return {(job.id, job.state) for job in ended}

    def expire(self) -> set[str]:
        overdue = [
            job
            for job in self.jobs.values()
            if job.state is JobState.QUEUED and 0 < job.expires_ms <= self.now_ms
        ]
        for job in overdue:
            self._finish(job, JobState.EXPIRED)
        return {job.id for job in overdue}

    def collect(self) -> None:
        over = [
            job
            for job in self.jobs.values()
            if job.state in FINISHED and job.collect_ms <= self.now_ms
        ]
        for job in over:
            del self.jobs[job.id]

    def move(self, source: str, target: str, version: str) -> tuple[int, int]:
        """How many were moved, and how many failed."""
        waiting = self.queue(source)
        stuck = [job for job in waiting if job.pin and job.pin != version]
        for job in waiting:
            if job in stuck:
                self._finish(job, JobState.FAILED)
            else:
                job.revision = target
        return len(waiting) - len(stuck), len(stuck)

    def _held(self, job_id: str, token: int) -> ModelJob | None:
        job = self.jobs.get(job_id)
        return job if job and job.state in HELD and job.token == token else None

    def _close(self, job: ModelJob, call: str) -> JobState:
        job.closed = (job.token, call, job.state)
        return job.state

    def _closed(self, job_id: str, token: int, call: str) -> JobState | None:
        job = self.jobs.get(job_id)
        closed = job.closed if job else None
        return closed[2] if closed and closed[:2] == (token, call) else None

    def _end_attempt(self, job: ModelJob, *, final: bool, dead: bool) -> None:
        if job.state is JobState.CANCELING:
            self._finish(job, JobState.CANCELED)
        elif final or job.attempts >= job.max_attempts:
            job.dead = dead
            self._finish(job, JobState.FAILED)
        else:
            job.state = JobState.QUEUED

    def _finish(self, job: ModelJob, state: JobState) -> None:
        job.state = state
        ttl_ms = self.dead_ttl_ms if state is JobState.FAILED and job.dead else self.result_ttl_ms
        job.collect_ms = self.now_ms + ttl_ms
        job.finished_ms = self.now_ms
        job.has_input = state is not JobState.SUCCEEDED
