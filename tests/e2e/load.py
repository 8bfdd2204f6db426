"""Closed-loop clients that check each answer: which version gave it, when, and if it is right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import onnxruntime as ort

from penstock.shared.wire.tensors import AnyArray

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Answer:
    """One request's outcome; times are wall-clock seconds."""

    started: float
    ended: float
    version: str
    failure: str = ""

    @property
    def latency_ms(self) -> float:
        return (self.ended - self.started) * 1000


class Direct:
    """What a version gives directly, without Penstock: ONNX Runtime on the same file."""

    def __init__(self, path: str) -> None:
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def probabilities(self, images: AnyArray) -> AnyArray:
        _, probabilities = self._session.run(["label", "probabilities"], {"image": images})
        array: AnyArray = probabilities
        return array


@dataclass
class Load:
    """Clients that send images of digits until they are told to stop.

    Attributes:
        pause_s: between two requests of a client; without one, clients and gateways take all of a
            small machine, and what starts beside them takes several times as long.
    """

    url: str
    images: AnyArray
    expected: Mapping[str, AnyArray]
    pause_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    stopped: bool = False

    async def run(self, clients: int) -> None:
        """Run until `stopped`; a request that is under way is finished."""
        connector = aiohttp.TCPConnector(limit=clients)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*[self._client(session, number) for number in range(clients)])

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        index = number
        while not self.stopped:
            index = (index + 7) % len(self.images)
            started = time.time()
            try:
                version, failure = await self._send(session, index)
            except (aiohttp.ClientError, TimeoutError) as error:
                version, failure = "", repr(error)
            self.answers.append(Answer(started, time.time(), version, failure))
            await asyncio.sleep(self.pause_s)

    async def _send(self, session: aiohttp.ClientSession, index: int) -> tuple[str, str]:
        body = {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "FP32",
                    "shape": [1, 64],
                    "data": self.images[index].tolist(),
                }
            ]
        }
        async with session.post(f"{self.url}/v2/models/digits/infer", json=body) as response:
            if response.status != 200:
                return "", f"{response.status} {(await response.text())[:200]}"
            answer = await response.json()
        version = answer["model_version"]
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        right = self.expected[version][index]
        if not np.allclose(outputs["probabilities"], right, atol=TOLERANCE):
            return version, f"version {version} gave another answer than directly"
        if outputs["label"] != [int(right.argmax())]:
            return version, f"version {version} gave another label than directly"
        return version, ""

    def failures(self) -> list[str]:
        """What went wrong, by request."""
        return [answer.failure for answer in self.answers if answer.failure]

    def versions(self) -> set[str]:
        """Versions that answered."""
        return {answer.version for answer in self.answers if not answer.failure}

    def percentile_ms(self, percent: float, where: Callable[[Answer], bool]) -> float:
        """A percentile of the latency of the answers for which `where` holds."""
        return float(np.percentile([a.latency_ms for a in self.answers if where(a)], percent))
