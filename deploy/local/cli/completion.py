"""What a shell offers for names of models and ids of jobs, when somebody presses Tab.

They are asked of the system that the command line names so far. Whoever presses Tab waits, so that
takes `LOOK_S` at most, and whatever fails offers nothing: no word of it is shown in a prompt.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import typer

from penstock.deploy.local.cli.extras import load

LOOK_S = 1.0
"""Longest wait for a system, be it the name server of its host; then nothing is offered."""

OFFERED_MAX = 50
"""Most names that are offered: more are no choice, and make a long answer of the gateway."""

_PLAIN = re.compile(r"[A-Za-z0-9_.@%+=/-]+")
"""What means the same in every shell, quoted or not: zsh evaluates what is offered to it."""

Offer = list[str] | list[tuple[str, str]]


def models_of_gateway(ctx: typer.Context, incomplete: str) -> Offer:
    """Models that the gateway of `--url` or `--data-dir` routes."""

    def look() -> Offer:
        index = orjson.loads(_call(ctx, "POST", "/v2/repository/index", {}))
        return _plain((each["name"] for each in index), incomplete)

    return within(LOOK_S, look)


def models_of_store(ctx: typer.Context, incomplete: str) -> Offer:
    """Models that the store of `--redis-url` or `--data-dir` knows, those to be loaded included."""

    def look() -> Offer:
        redis_url, namespace = ctx.params.get("redis_url"), ctx.params.get("namespace")
        if not redis_url:
            system = _system(ctx)
            redis_url, namespace = system.redis_url, system.namespace
        module = load("penstock.deploy.local.status.status", "penstock", "all")
        status = asyncio.run(module.read_status(redis_url, namespace))
        return _plain((each.model for each in status.models), incomplete)

    return within(LOOK_S, look)


def jobs_of_gateway(ctx: typer.Context, incomplete: str) -> Offer:
    """The newest jobs of the gateway of `--url` or `--data-dir`, with what they are."""

    def look() -> Offer:
        page = orjson.loads(_call(ctx, "GET", "/v2/jobs", {"limit": str(OFFERED_MAX)}))
        jobs = {each["id"]: f"{each['model']} {each['state']}" for each in page["jobs"]}
        return [
            (name, said if _PLAIN.fullmatch(said.replace(" ", "")) else "a job")
            for name, said in jobs.items()
            if name.startswith(incomplete)
        ]

    return within(LOOK_S, look)


def names_of_tags(incomplete: str) -> list[str]:
    """Tags, without the prefix."""
    tags = load("penstock.registry_sync.plan.tags.table", "penstock", "all").TAGS
    return [tag.name for tag in tags if tag.name.startswith(incomplete)]


def _call(ctx: typer.Context, method: str, path: str, query: dict[str, str]) -> bytes:
    url = ctx.params.get("url") or _system(ctx).url
    client = load("penstock.deploy.local.jobs.gateway_client", "penstock", "all").GatewayClient(
        url, LOOK_S
    )
    answer: bytes = client.call(method, path, query=query)
    return answer


def _system(ctx: typer.Context) -> Any:
    module = load("penstock.deploy.local.system.system_file", "penstock", "all")
    return module.read_system(Path(ctx.params["data_dir"]))


def _plain(names: Iterable[str], incomplete: str) -> list[str]:
    fit = {name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)}
    return sorted(fit)[:OFFERED_MAX]


def within(longest_s: float, look: Callable[[], Offer]) -> Offer:
    """What a look finds in time; else this process, which is for nothing else, ends in silence.

    Nothing less ends a thread of Python's that waits for a name server.
    """
    watch = threading.Timer(longest_s, os._exit, (0,))
    watch.daemon = True
    watch.start()
    try:
        return look()
    except Exception:  # whatever it is: there is nobody to tell it to
        return []
    finally:
        watch.cancel()
