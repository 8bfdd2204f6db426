"""`penstock demo-client`: send the demo's test images at once, and say how it went."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress, TaskID

from penstock.deploy.local.cli.curl_examples import DEMO_INPUT, DEMO_MODEL
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.demo.digits import load_split
from penstock.deploy.local.system.system_file import read_system

TIMEOUT_S = 30.0
FAILURES_SHOWN = 5


@dataclass
class Tally:
    """What came back."""

    correct: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Requests that succeeded."""
        return len(self.latencies_ms)

    def lines(self, took_s: float) -> list[str]:
        """The result, for people."""
        failed = self.failures.total()
        lines = [f"requests     {self.answered + failed} in {took_s:.1f} s, failed {failed}"]
        if self.answered:
            quantiles = (percentile(self.latencies_ms, q) for q in (0.5, 0.9, 0.99))
            p50, p90, p99 = (f"{value:.1f}" for value in quantiles)
            seen = ", ".join(f"{name} ({n})" for name, n in sorted(self.versions.items()))
            lines += [
                f"accuracy     {self.correct / self.answered:.4f}",
                f"versions     {seen}",
                f"latency ms   p50 {p50}  p90 {p90}  p99 {p99}",
            ]
        lines += [f"failed {n} x  {why}" for why, n in self.failures.most_common(FAILURES_SHOWN)]
        return lines


def percentile(values: Sequence[float], quantile: float) -> float:
    """The smallest value that at least that share of the values does not exceed."""
    rank = math.ceil(quantile * len(values))
    return sorted(values)[max(rank, 1) - 1]


def run_demo_client(url: str | None, data_dir: Path, concurrency: int, rounds: int) -> int:
    """Send the test split `rounds` times; returns 1 if any request failed."""
    url = url or read_system(data_dir).url
    digits = load_split()
    labels = digits.test_labels.tolist()
    samples = list(zip(digits.test_images.tolist(), labels, strict=True)) * rounds
    console = Console(highlight=False, markup=False)
    console.print(f"sending {len(samples)} images to {url}, {concurrency} at a time")
    began = time.perf_counter()
    tally = asyncio.run(_send_all(url, samples, concurrency, console))
    for line in tally.lines(time.perf_counter() - began):
        console.print(line, soft_wrap=True)
    return 1 if tally.failures else 0


Sample = tuple[list[float], int]


async def _send_all(url: str, samples: list[Sample], concurrency: int, console: Console) -> Tally:
    tally = Tally()
    pending = iter(samples)
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    try:
        client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise CommandError(f"--url {url}: {error}", exit_code=2) from error
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images", total=len(samples))
        async with client, asyncio.TaskGroup() as senders:
            for _ in range(concurrency):
                senders.create_task(_send(client, pending, tally, progress, task))
    return tally


async def _send(
    client: httpx.AsyncClient,
    pending: Iterator[Sample],
    tally: Tally,
    progress: Progress,
    task: TaskID,
) -> None:
    """One client: takes the next image as soon as the last one is answered."""
    for image, label in pending:
        began = time.perf_counter()
        try:
            answer = await client.post(f"/v2/models/{DEMO_MODEL}/infer", json=_body(image))
            latency_ms = (time.perf_counter() - began) * 1000
            if answer.status_code == 200:
                _count(tally, answer, label, latency_ms)
            else:
                tally.failures[f"{answer.status_code}: {answer.text:.200}"] += 1
        except httpx.HTTPError as error:
            tally.failures[f"{type(error).__name__}: {error}"] += 1
        progress.advance(task)


def _body(image: list[float]) -> dict[str, object]:
    tensor = {"name": DEMO_INPUT, "shape": [1, len(image)], "datatype": "FP32", "data": image}
    return {"inputs": [tensor], "outputs": [{"name": "label"}]}


def _count(tally: Tally, answer: httpx.Response, label: int, latency_ms: float) -> None:
    body = answer.json()
    outputs = {output["name"]: output["data"] for output in body["outputs"]}
    tally.correct += outputs["label"] == [label]
    tally.versions[str(body["model_version"])] += 1
    tally.latencies_ms.append(latency_ms)
