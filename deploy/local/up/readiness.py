"""Conditions that `penstock up` waits for; each is asked again and again until it holds."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import cast

from redis.exceptions import RedisError

from penstock.deploy.local.system.direct_http import open_direct
from penstock.deploy.local.up.launcher import Condition, Part
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.store.client import connect
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import StateStore

HTTP_TIMEOUT_S = 3.0


def answers(url: str, *, ours: bool = True) -> Condition:
    """A GET of the URL answers 200; only what is not ours is asked through a proxy."""

    async def ready() -> bool:
        return await asyncio.to_thread(_get_is_ok, url, ours)

    return ready


def gateway_reports(store: StateStore, part: Part) -> Condition:
    """The gateway in this very process has reported itself."""

    async def ready() -> bool:
        try:
            return any(report.pid == part.pid for report in await store.gateways())
        except StateStoreError:
            return False

    return ready


def worker_reports(store: StateStore, part: Part) -> Condition:
    """The worker in this very process has reported itself."""

    async def ready() -> bool:
        try:
            return any(report.pid == part.pid for report in await store.workers())
        except StateStoreError:
            return False

    return ready


def sync_reports(store: StateStore, part: Part) -> Condition:
    """The registry_sync in this very process has reported itself, leading or not."""

    async def ready() -> bool:
        try:
            return any(report.pid == part.pid for report in await store.syncs())
        except StateStoreError:
            return False

    return ready


def leader_exists(redis_url: str, namespace: str) -> Condition:
    """Some registry_sync holds the lease."""

    async def ready() -> bool:
        client = connect(redis_url)
        try:
            return bool(await client.exists(Keys(namespace).lease))
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    return ready


def _get_is_ok(url: str, ours: bool) -> bool:
    try:
        opened = open_direct(url, HTTP_TIMEOUT_S) if ours else _open(url)
        with opened as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _open(url: str) -> HTTPResponse:
    return cast(HTTPResponse, urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S))
