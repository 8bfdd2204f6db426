"""What a gateway has for jobs, put together: the clients' side, and the keeper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.gateway.inference.service import InferenceService
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.keeper.keeper import PARTS as KEEPER_PARTS
from penstock.gateway.jobs.keeper.keeper import JobKeeper
from penstock.gateway.jobs.keeper.settings import webhook_settings
from penstock.gateway.jobs.metrics import JobsCollector
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.settings import GatewaySettings
from penstock.gateway.webhooks.connections import tls_context
from penstock.gateway.webhooks.sender import WebhookSender
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.restarts import Restarts
from penstock.shared.store.keys import Keys

PARTS = ("job_news", *KEEPER_PARTS)


class GatewayJobs:
    """Jobs in one gateway process.

    Args:
        service: tells of routes and replicas.
        held: the budget over what the gateway holds.

    Attributes:
        clients: what clients may do with jobs.
        collector: of metrics.

    Raises:
        PenstockError: if `blobs_url` names no place that can be used.
    """

    def __init__(
        self, settings: GatewaySettings, service: InferenceService, held: HeldBytes
    ) -> None:
        keys = Keys(settings.namespace)
        url, namespace = settings.blobs_url, settings.namespace
        blobs = BlobStore(url, namespace) if url else None
        self._store = JobStore(settings.redis_url, keys)
        self._news = JobNews(settings.redis_url, keys)
        self._sender = _sender(settings)
        self._keeper = JobKeeper(
            self._store,
            service,
            settings,
            SystemClock(),
            self._sender,
            blobs=blobs,
            is_known=_is_known(settings.redis_url, keys),
        )
        networks = None if self._sender is None else settings.webhook_allow_networks
        self.clients = JobService(self._store, self._news, settings, blobs, networks, held=held)
        self.collector = JobsCollector(self._keeper, service)

    async def run(self, restarts: Restarts) -> None:
        """Keep jobs going, and hear of their changes, until cancelled.

        Args:
            restarts: has each of `PARTS` begin again that fails.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(restarts.keep("job_news", self._news.run))
            tasks.create_task(self._keeper.run(restarts))

    def begin_drain(self) -> None:
        """The gateway leaves: who waits for a job is let go."""
        self.clients.begin_drain()

    async def close(self) -> None:
        """Close all connections; only after `run` has ended."""
        await self._store.close()
        if self._sender is not None:
            await self._sender.close()


def _sender(settings: GatewaySettings) -> WebhookSender | None:
    """Sends webhooks, if there is a secret to sign them by."""
    webhooks = webhook_settings(settings)
    if webhooks is None:
        return None
    return WebhookSender(webhooks, SystemClock(), tls_context(settings.webhook_ca_file))


def _is_known(redis_url: str, keys: Keys) -> Callable[[str], bool]:
    """Asks the store by a connection of its own, for the thread that looks for orphans."""
    store = BlockingJobStore(redis_url, keys)
    return lambda job_id: store.run(calls.get(job_id)) is not None
