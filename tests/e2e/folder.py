"""A `penstock up --models` on a folder of small models, and clients that check each answer."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.e2e.system import LocalSystem
from tests.support.models import affine
from tests.support.waiting import wait_until

QUICK = {"PENSTOCK_POLL_INTERVAL_S": "0.2", "PENSTOCK_FOLDER_SETTLE_S": "0.2"}
"""Changes of the folder are seen in a fraction of a second, rather than in two."""

SWAP_TIMEOUT_S = 40.0


def folder_system(base: Path, *arguments: str) -> LocalSystem:
    """A system that follows `base/models`; not yet started."""
    models = base / "models"
    models.mkdir(exist_ok=True)
    system = LocalSystem(base / "data", "--models", str(models), *arguments)
    system.environment = dict(QUICK)
    return system


def put_affine(version: Path, scale: float) -> None:
    """Write a model that multiplies in place, as `cp` would: the file is there, and changes."""
    fresh = affine(version.parent / ".fresh", scale) / "model.onnx"
    version.mkdir(exist_ok=True)
    (version / "model.onnx").write_bytes(fresh.read_bytes())


def multiply(url: str, model: str, number: float) -> tuple[str, float]:
    """Version that answered, and the number times its model's scale."""
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", _body(number))
    with urllib.request.urlopen(request, timeout=10) as response:
        return _answer(json.load(response))


def answers_with(system: LocalSystem, model: str, scale: float, timeout_s: float) -> None:
    """Wait until a model multiplies by `scale`."""

    def is_so() -> bool:
        try:
            return multiply(system.url, model, 1.0)[1] == scale
        except (urllib.error.URLError, OSError):
            return False

    wait_until(is_so, timeout_s, f"{model} multiplies by {scale}", 0.05)


def status_of(models: Path, model: str, version: int) -> tuple[str, str]:
    """What Penstock wrote beside the model."""
    try:
        row = yaml.safe_load((models / model / "status.yaml").read_text())[version]
    except (OSError, KeyError):
        return "", ""
    return row["status"], row["message"]


@dataclass
class Multiplying:
    """Clients that send numbers until they are told to stop; each answer must fit a scale.

    Attributes:
        keep: connections are kept; else each request has one of its own.
    """

    url: str
    model: str
    scales: set[float]
    pause_s: float = 0.01
    keep: bool = True
    answered: dict[float, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self, clients: int) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(force_close=not self.keep)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*[self._client(session, number) for number in range(clients)])

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        url = f"{self.url}/v2/models/{self.model}/infer"
        while not self.stopped:
            number += 1
            sent = float(number % 1000 + 1)
            try:
                async with session.post(url, data=_body(sent)) as response:
                    text = await response.text()
                    if response.status == 200:
                        self._note(_answer(json.loads(text))[1] / sent)
                    else:
                        self.failures.append(f"{response.status} {text[:200]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
            await asyncio.sleep(self.pause_s)

    def _note(self, scale: float) -> None:
        self.answered[scale] = self.answered.get(scale, 0) + 1
        if scale not in self.scales:
            self.failures.append(f"multiplied by {scale}")


def _body(number: float) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [number, 0.0]}
    return json.dumps({"inputs": [tensor]}).encode()


def _answer(document: Any) -> tuple[str, float]:
    (output,) = document["outputs"]
    return str(document["model_version"]), float(output["data"][0])
