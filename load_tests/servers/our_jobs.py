"""Jobs of our own server: as a client hands them in, and as the store counts them."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from load_tests.server import Encoding, HttpRequest, Rows, ServerError
from load_tests.servers import oip
from penstock.shared.contracts.routing import VersionRoute
from penstock.shared.jobs.answers import StoreStats
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.calls import StoreLimits, stats, submit
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.payload import INPUT_TYPE, JobInput, pack_input
from penstock.shared.jobs.record import FINISHED, Content, JobState, NewJob
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import Buffer, Tensor

NAMESPACE = "penstock"
PAUSE_S = 0.01
"""Between two jobs of a lonely client, so that each finds an idle replica."""

RESULT_TIMEOUT_S = 60
POLL_S = 0.02
FILL_STEP = 500
FILLED_TTL_MS = 10_000
"""What a filled job came to is of no use to anybody."""


@dataclass(frozen=True)
class Seen:
    """A job as a lonely client saw it.

    Attributes:
        start_ms: from submit to its start, by the store's clock of milliseconds.
        result_ms: from submit to its result in the client's hands.
        sample: index of its input.
        output: what came of it.
    """

    start_ms: float
    result_ms: float
    sample: int
    output: Rows


def job_request(model: str, rows: Rows) -> HttpRequest:
    """Hand in a job instead of a call."""
    request = oip.infer_request(model, Encoding.JSON, rows)
    return replace(request, path=f"/v2/models/{model}/jobs")


def alone(port: int, requests: Sequence[HttpRequest], jobs: int) -> list[Seen]:
    """One client, one job after another, each waited for and fetched.

    Raises:
        ServerError: if one of them does not succeed.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=RESULT_TIMEOUT_S)) as wire:
        _one(wire, requests[0], 0)  # everything is connected now
        seen = []
        for number in range(jobs):
            sample = number % len(requests)
            seen.append(_one(wire, requests[sample], sample))
            time.sleep(PAUSE_S)
        return seen


def _one(wire: http.client.HTTPConnection, request: HttpRequest, sample: int) -> Seen:
    begin_wall_ms, begin = time.time() * 1e3, time.monotonic()
    job = json.loads(_ask(wire, "POST", request.path, request.body, request.headers))
    path = f"/v2/jobs/{job['id']}"
    while JobState(job["state"]) not in FINISHED:
        job = json.loads(_ask(wire, "GET", f"{path}?wait={RESULT_TIMEOUT_S // 2}"))
        if time.monotonic() - begin > RESULT_TIMEOUT_S:
            raise ServerError(f"a job is still {job['state']}")
    answer = _ask(wire, "GET", f"{path}/result")
    result_ms = (time.monotonic() - begin) * 1e3
    started = datetime.fromisoformat(job["started_at"]).timestamp() * 1e3
    return Seen(started - begin_wall_ms, result_ms, sample, oip.infer_answer({}, answer))


def _ask(
    wire: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    wire.request(method, path, body, dict(headers or {}))
    response = wire.getresponse()
    data = response.read()
    if response.status not in (200, 202):
        raise ServerError(f"{method} {path}: {response.status} {data[:200]!r}")
    return data


class JobCounts:
    """What the job store holds; `close` it."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._store = BlockingJobStore(redis_url, Keys(NAMESPACE))

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def now(self) -> StoreStats:
        """All of it."""
        return self._store.run(stats())

    def until_done(self, timeout_s: float) -> int:
        """Wait until no job waits or runs, but not for longer; returns how many still do."""
        give_up = time.monotonic() + timeout_s
        while (left := unfinished(self.now())) and time.monotonic() < give_up:
            time.sleep(POLL_S)
        return left

    def fill(self, model: str, samples: Sequence[Rows], jobs: int, within_s: float) -> None:
        """Put so many jobs into a model's queue, or as many as can be within that time.

        They go past the gateway, which would take longer.

        Raises:
            ServerError: if the store does not take them.
        """
        route = asyncio.run(_route(self._url, model))
        bodies = [_packed(rows) for rows in samples]
        limits = StoreLimits(jobs_max=10 * jobs, bytes_max=2**32)
        give_up = time.monotonic() + within_s
        for first in range(0, jobs, FILL_STEP):
            calls = []
            for number in range(first, min(first + FILL_STEP, jobs)):
                body = bodies[number % len(bodies)]
                job = NewJob(
                    id=new_job_id(),
                    model=model,
                    version=route.version,
                    revision=route.revision,
                    result_ttl_ms=FILLED_TTL_MS,
                )
                calls.append(submit(job, Content(INPUT_TYPE, len(body)), body, limits=limits))
            failed = [each for each in self._store.run_many(calls) if isinstance(each, Exception)]
            if failed:
                raise ServerError(f"the job store takes no more: {failed[0]}")
            if time.monotonic() > give_up:
                return


def unfinished(found: StoreStats) -> int:
    """Jobs that wait or run."""
    return sum(count for state, count in found.states.items() if state not in FINISHED)


def _packed(rows: Rows) -> Buffer:
    data = np.ascontiguousarray(rows, "<f4").tobytes()
    return pack_input(JobInput("", Request(0, 0, (Tensor("x", "FP32", rows.shape, data),))))


async def _route(redis_url: str, model: str) -> VersionRoute:
    store = RedisStateStore(redis_url, Keys(NAMESPACE))
    try:
        return (await store.routing()).models[model].versions[0]
    finally:
        await store.close()
