"""How a version is to be served, as tags of its model and of itself say (pure).

A tag on the version overrides the tag of the same name on the model. A value that cannot be read
keeps what runs: the setting stays as it is deployed, or at its default if nothing is, and the
operator is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from penstock.registry_sync.plan.tag_names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.sources.types import OWN_TAGS, PREFIX, ROLE_TAG
from penstock.shared.contracts.deployment import (
    Batching,
    ReplicaSettings,
    RevisionDeployment,
    Swap,
    WarmUpPolicy,
)
from penstock.shared.contracts.routing import HEDGE_BUDGET, HedgePolicy, JobsPolicy

BATCH_SIZE_MAX = 65536
QUEUE_DELAY_MS_MAX = 60_000.0
TIMEOUT_MS_MAX = 86_400_000.0
REPLICAS_MAX = 1024
THREADS_MAX = 1024
JOB_CONCURRENCY_MAX = 65536
DRAIN_TIMEOUT_S_MAX = 86_400.0

_DEVICE = re.compile(r"auto|cpu|cuda:\d{1,3}")


@dataclass(frozen=True)
class ServingSettings:
    """How a version is to be served; see `penstock.shared.contracts.deployment` for the meaning of
    each field.

    Where a setting came later (`jobs`, `batching`, `warmup`), a replica is told nothing of its
    default: what runs since before there was such a tag stays.
    """

    max_batch_size: int = 32
    max_queue_delay_ms: float = 0.0
    timeout_ms: float | None = None
    replicas: int | Literal["each"] = 1
    device: str = "auto"
    threads: int | None = None
    env: Literal["inherit", "isolated"] = "inherit"
    swap: Swap = "surge"
    queue_timeout_ms: float | None = None
    execution_timeout_ms: float | None = None
    hedge: HedgePolicy = "auto"
    hedge_budget: float = HEDGE_BUDGET
    jobs: JobsPolicy = "shared"
    job_replicas: int = 1
    job_concurrency: int | None = None
    job_slice_ms: float | None = None
    drain_timeout_s: float | None = None
    batching: Batching = "auto"
    warmup: WarmUpPolicy = "auto"

    @property
    def replica(self) -> ReplicaSettings:
        """The part that a replica is started with."""
        return ReplicaSettings(
            max_batch_size=self.max_batch_size,
            max_queue_delay_ms=self.max_queue_delay_ms,
            device=self.device,
            threads=self.threads,
            environment=self.env,
            execution_timeout_ms=self.execution_timeout_ms,
            job_concurrency=self.job_concurrency,
            job_slice_ms=self.job_slice_ms,
            drain_timeout_s=self.drain_timeout_s,
            jobs=None if self.jobs == "shared" else self.jobs,
            batching=None if self.batching == "auto" else self.batching,
            warmup=None if self.warmup == "auto" else self.warmup,
        )


def deployed_settings(revision: RevisionDeployment) -> ServingSettings:
    """What a deployed revision runs with."""
    return ServingSettings(
        max_batch_size=revision.settings.max_batch_size,
        max_queue_delay_ms=revision.settings.max_queue_delay_ms,
        timeout_ms=revision.timeout_ms,
        replicas=revision.replicas,
        device=revision.settings.device,
        threads=revision.settings.threads,
        env=revision.settings.environment,
        swap=revision.swap,
        queue_timeout_ms=revision.queue_timeout_ms,
        execution_timeout_ms=revision.settings.execution_timeout_ms,
        hedge=revision.hedge,
        hedge_budget=revision.hedge_budget,
        jobs=revision.settings.jobs or "shared",
        job_replicas=revision.job_replicas,
        job_concurrency=revision.settings.job_concurrency,
        job_slice_ms=revision.settings.job_slice_ms,
        drain_timeout_s=revision.settings.drain_timeout_s,
        batching=revision.settings.batching or "auto",
        warmup=revision.settings.warmup or "auto",
    )


def read_settings(
    model_tags: Mapping[str, str],
    version_tags: Mapping[str, str],
    defaults: ServingSettings,
    running: ServingSettings | None,
    names: TagNames = DEFAULT_NAMES,
) -> tuple[ServingSettings, tuple[str, ...]]:
    """Read the settings of one version.

    Args:
        running: what is deployed now, kept where a tag cannot be read.
        names: what the operator calls our tags.

    Returns:
        The settings, and a sentence for each tag that could not be read.
    """
    tags = {**_wishes(model_tags), **_wishes(version_tags)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field, (parse, expected) in _FIELDS.items():
        fallback = getattr(running or defaults, field)
        text = tags.pop(PREFIX + field, None)
        try:
            values[field] = getattr(defaults, field) if text is None else parse(text.strip())
        except ValueError:
            values[field] = fallback
            kept = "none" if fallback is None else fallback
            problems.append(
                f"{names.outward(field)} is {str(text)[:40]!r}, expected {expected}; {kept} stays"
            )
    problems += [f"{names.outward(tag)[:60]} is no tag of Penstock" for tag in sorted(tags)]
    return ServingSettings(**values), tuple(problems)


def _wishes(tags: Mapping[str, str]) -> dict[str, str]:
    skipped = OWN_TAGS | {ROLE_TAG}
    return {
        tag: text for tag, text in tags.items() if tag.startswith(PREFIX) and tag not in skipped
    }


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(text)
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = float(text)
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError(text)
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(text)
        return text.lower()

    return parse


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text.lower()):
        raise ValueError(text)
    return text.lower()


def _replicas(text: str) -> int | str:
    return "each" if text.lower() == "each" else _integer(1, REPLICAS_MAX)(text)


def _threads(text: str) -> int | None:
    return None if text.lower() == "auto" else _integer(1, THREADS_MAX)(text)


def _hedge(text: str) -> HedgePolicy:
    match text.lower():
        case "auto":
            return "auto"
        case "off":
            return "off"
    delay_ms = _number(0, TIMEOUT_MS_MAX)(text)
    if delay_ms == 0:
        raise ValueError(text)
    return delay_ms


_FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_batch_size": (_integer(1, BATCH_SIZE_MAX), f"a number from 1 to {BATCH_SIZE_MAX}"),
    "max_queue_delay_ms": (_number(0, QUEUE_DELAY_MS_MAX), "milliseconds up to 60000"),
    "timeout_ms": (_number(1, TIMEOUT_MS_MAX), "milliseconds from 1 to 86400000"),
    "replicas": (_replicas, f"a number from 1 to {REPLICAS_MAX}, or each"),
    "device": (_device, "auto, cpu or cuda:N"),
    "threads": (_threads, f"a number from 1 to {THREADS_MAX}, or auto"),
    "env": (_one_of("inherit", "isolated"), "inherit or isolated"),
    "swap": (_one_of("surge", "replace"), "surge or replace"),
    "queue_timeout_ms": (_number(1, TIMEOUT_MS_MAX), "milliseconds from 1 to 86400000"),
    "execution_timeout_ms": (_number(1, TIMEOUT_MS_MAX), "milliseconds from 1 to 86400000"),
    "hedge": (_hedge, "auto, off, or milliseconds above 0, up to 86400000"),
    "hedge_budget": (_number(0, 1), "a share from 0 to 1"),
    "jobs": (_one_of("shared", "only", "off"), "shared, only or off"),
    "job_replicas": (_integer(1, REPLICAS_MAX), f"a number from 1 to {REPLICAS_MAX}"),
    "job_concurrency": (
        _integer(1, JOB_CONCURRENCY_MAX),
        f"a number from 1 to {JOB_CONCURRENCY_MAX}",
    ),
    "job_slice_ms": (_number(1, TIMEOUT_MS_MAX), "milliseconds from 1 to 86400000"),
    "drain_timeout_s": (_number(0, DRAIN_TIMEOUT_S_MAX), "seconds up to 86400"),
    "batching": (_one_of("auto", "on", "off"), "auto, on or off"),
    "warmup": (_one_of("auto", "off"), "auto or off"),
}
"""Every settings tag: how it is read, and what to expect of it."""
