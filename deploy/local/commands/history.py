"""`penstock history MODEL`: who switched what, when and why, with the failures.

What registry_sync wrote down while it led; see `penstock.shared.contracts.history` for how much of
it is kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import folded_table, one_line, table_console
from penstock.deploy.local.system.system_file import read_system
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.history import EventKind, HistoryEvent, utc
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore


class ModelHistory(BaseModel):
    """The shape of `penstock history --json`; times are seconds since 1970, the oldest first."""

    model: str
    events: list[HistoryEvent]


async def read_history(
    redis_url: str, namespace: str, model: str, limit: int
) -> list[HistoryEvent]:
    """The last events of a model, the oldest first.

    Raises:
        StateStoreError: if the store does not answer.
    """
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        return await store.history(model, limit)
    finally:
        await store.close()


def run_history(
    model: str,
    limit: int,
    data_dir: Path,
    redis_url: str | None,
    namespace: str,
    as_json: bool,
) -> int:
    """Print what happened to a model, the oldest first; returns the exit code, 1 if it is nothing.

    Raises:
        CommandError: if no system is found.
    """
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    try:
        events = asyncio.run(read_history(redis_url, namespace, model, limit))
    except (StateStoreError, ValueError) as error:
        raise CommandError(f"the state store does not answer: {error}") from error
    if as_json:
        print(ModelHistory(model=model, events=events).model_dump_json(indent=2))
    elif events:
        print_history(events, table_console())
    else:
        print(f"penstock: nothing was written down of {one_line(model)}", file=sys.stderr)
    return 0 if events else 1


def print_history(events: Sequence[HistoryEvent], console: Console) -> None:
    """One row for each event."""
    table = folded_table("when", "what", "version", "by", "why")
    table.columns[0].no_wrap = True
    for each in events:
        table.add_row(
            utc(each.at), each.kind.value, shown_version(each), shown_by(each), one_line(each.why)
        )
    console.print(table)


def shown_version(event: HistoryEvent) -> str:
    """The version; of a switch, that before and that now, `-` for none."""
    if event.kind is not EventKind.SWITCHED:
        return event.version
    return f"{event.before or '-'} -> {event.version or '-'}"


def shown_by(event: HistoryEvent) -> str:
    """Who asked for it, as far as that is known."""
    registered = f"registered by {event.registered_by}" if event.registered_by else ""
    return one_line("; ".join(each for each in (event.who, registered) if each))
