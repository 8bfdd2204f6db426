"""`penstock off MODEL`: end what serves, also where the registry has it no more.

The store keeps what is turned off until it has ended and the registry would not serve it again;
registry_sync reads it beside the registry, where a deleted version can carry no tag.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import typer

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import one_line
from penstock.deploy.local.commands.ending import Ending, ending_of, listed
from penstock.deploy.local.commands.retry import deployed_models
from penstock.deploy.local.status.document import summary_of
from penstock.deploy.local.system.system_file import read_system
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore, StateStore

Answer = TypeVar("Answer")


async def look(store: StateStore, model: str, version: str | None) -> tuple[Ending, bool]:
    """What would be ended, and whether a registry_sync is there to do it.

    Raises:
        CommandError: if the system knows nothing of the model or the version.
        StateStoreError: if the store does not answer.
    """
    status = await summary_of(store)
    found = next((each for each in status.models if each.model == model), None)
    if found is None or not (found.revisions or found.versions):
        known = deployed_models({each.model for each in status.models if each.revisions})
        raise CommandError(f"{one_line(model)} is not deployed; {known}")
    ending = ending_of(found, version)
    if ending is None:
        what = f"version {version} of {one_line(model)}" if version else one_line(model)
        raise CommandError(f"{what} is not deployed; to be turned off: {listed(found)}")
    return ending, bool(status.syncs)


async def undo(store: StateStore, model: str, version: str | None) -> list[str]:
    """Let the registry's word count again; returns the versions that were turned off."""
    held = {key for key in await store.turned_off() if key[0] == model}
    chosen = {key for key in held if version in (None, key[1])}
    if chosen:
        await store.forget_turned_off(chosen)
    return sorted(each for _, each in chosen)


def run_off(
    model: str,
    version: str | None,
    data_dir: Path,
    redis_url: str | None,
    namespace: str,
    *,
    yes: bool,
    undone: bool,
) -> int:
    """Say what ends, ask, and end it; returns the exit code: 1 if the answer was no.

    Raises:
        CommandError: if no system is found, nothing of the model is deployed, or nobody can be
            asked.
    """
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    at = _Store(redis_url, namespace)
    if undone:
        return _run_undo(at, model, version)
    ending, followed = at.ask(lambda store: look(store, model, version))
    print(f"This ends {one_line(model)}:")
    for line in ending.lines:
        print(f"  {line}")
    if not followed:
        print("  no registry_sync is there: it ends once one is")
    if not yes and not _agreed():
        print("nothing was changed")
        return 1
    at.ask(lambda store: store.turn_off(model, ending.versions))
    print(f"turned off; `penstock wait {one_line(model)} --for retired` waits for the end")
    return 0


def _run_undo(at: _Store, model: str, version: str | None) -> int:
    versions = at.ask(lambda store: undo(store, model, version))
    if not versions:
        raise CommandError(f"nothing of {one_line(model)} is turned off by `penstock off`")
    print(f"{one_line(model)}: {', '.join(versions)} counts again as the registry says")
    return 0


def _agreed() -> bool:
    """Whether the operator says yes.

    Raises:
        CommandError: if there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise CommandError(
            "nothing was changed: nobody can be asked, since the input is no terminal; "
            "--yes ends it without a question",
            exit_code=2,
        )
    return typer.confirm("End it?", default=False)


class _Store:
    """The store of the system, asked for one thing at a time."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self._redis_url = redis_url
        self._namespace = namespace

    def ask(self, question: Callable[[StateStore], Awaitable[Answer]]) -> Answer:
        """The answer to a question.

        Raises:
            CommandError: if the store does not answer, or refuses.
        """
        try:
            return asyncio.run(self._ask(question))
        except (StateStoreError, ValueError) as error:
            raise CommandError(f"the state store does not answer: {error}") from error

    async def _ask(self, question: Callable[[StateStore], Awaitable[Answer]]) -> Answer:
        store = RedisStateStore(self._redis_url, Keys(self._namespace))
        try:
            return await question(store)
        finally:
            await store.close()
