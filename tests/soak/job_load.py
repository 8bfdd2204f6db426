"""Clients that submit jobs until they are told to stop, each with a key, until it is accepted."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ANSWER_TIMEOUT_S = 4.0
AGAIN = (429, 500, 502, 503, 504)
"""Answers after which a client asks again, with the same key."""


@dataclass
class JobLoad:
    """Jobs of one model.

    Attributes:
        body_of: the request of each number.
        pause_s: of each client between two jobs.
        accepted: ids that were told of each number; more than one would be a job made twice.
        tries: submits that were sent.
    """

    url: str
    model: str
    body_of: Callable[[int], dict[str, Any]]
    pause_s: float
    accepted: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: list[str] = field(default_factory=list)
    tries: int = 0
    stopped: bool = False

    async def run(self, clients: int) -> None:
        """Run until `stopped`; what is being submitted is submitted."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(
                *[self._client(session, first, clients) for first in range(clients)]
            )

    async def _client(self, session: aiohttp.ClientSession, number: int, step: int) -> None:
        while not self.stopped:
            while not await self._submitted(session, number):
                await asyncio.sleep(random.uniform(0.1, 0.5))
            number += step
            await asyncio.sleep(self.pause_s)

    async def _submitted(self, session: aiohttp.ClientSession, number: int) -> bool:
        self.tries += 1
        path = f"{self.url}/v2/models/{self.model}/jobs"
        headers = {"idempotency-key": f"number-{number}"}
        try:
            async with session.post(path, json=self.body_of(number), headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return False
        if response.status in (200, 202):  # 200: an earlier try was accepted, and is finished
            self.accepted[number].add(json.loads(text)["id"])
        elif response.status not in AGAIN:
            self.refused.append(f"number {number}: {response.status} {text[:200]}")
        return response.status not in AGAIN


async def jobs_of(url: str, model: str) -> dict[str, dict[str, Any]]:
    """All jobs of a model that there are, by id."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    async with aiohttp.ClientSession() as session:
        while True:
            path = f"{url}/v2/jobs?model={model}&limit=200&cursor={cursor}"
            async with session.get(path) as response:
                page = await response.json()
                assert response.status == 200, page
            found |= {job["id"]: job for job in page["jobs"]}
            cursor = page["next_cursor"]
            if not cursor:
                return found


async def results_of(url: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Results of jobs that succeeded, by id."""
    found = {}
    async with aiohttp.ClientSession() as session:
        for job_id in ids:
            async with session.get(f"{url}/v2/jobs/{job_id}/result") as response:
                document = await response.json()
                assert response.status == 200, document
            found[job_id] = document
    return found
