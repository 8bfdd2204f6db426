"""`penstock retry MODEL`: ask for a new trial of a model, and a new try of what failed.

The store counts how often that was asked for; registry_sync makes the count part of the revision,
so that what follows is a swap like any other.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.system_file import read_system
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore, StateStore

NAMED_MAX = 10
"""Most models that a message lists."""


async def ask(store: StateStore, model: str) -> int:
    """Ask for a new trial; returns its number.

    Raises:
        CommandError: if nothing of the model is deployed, or the registry has it no more.
        StateStoreError: if the store does not answer.
    """
    revisions = (await store.deployment()).revisions.values()
    told = [each for sync in await store.syncs() for each in sync.statuses if each.model == model]
    if model not in {each.model for each in revisions}:
        raise CommandError(
            f"{model} is not deployed; {deployed_models({each.model for each in revisions})}"
        )
    if told and all(each.gone for each in told):
        raise CommandError(
            f"{model} cannot be loaded anew: it serves though the registry has it no more"
        )
    trials = [each.settings.trial or 0 for each in revisions if each.model == model]
    return await store.ask_trial(model, max(trials))


def deployed_models(models: set[str]) -> str:
    """Which models are deployed, for who named another."""
    if not models:
        return "no model is"
    names = sorted(models)
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"deployed: {', '.join(names[:NAMED_MAX])}{more}"


async def _ask_at(redis_url: str, namespace: str, model: str) -> int:
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        return await ask(store, model)
    finally:
        await store.close()


def run_retry(model: str, data_dir: Path, redis_url: str | None, namespace: str) -> int:
    """Ask, and say what follows; returns the exit code.

    Raises:
        CommandError: if no system is found, or nothing of the model is deployed.
    """
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    try:
        trial = asyncio.run(_ask_at(redis_url, namespace, model))
    except (StateStoreError, ValueError) as error:
        raise CommandError(f"the state store does not answer: {error}") from error
    print(f"{model} is tried anew (trial {trial}); `penstock status` tells what comes of it")
    return 0
