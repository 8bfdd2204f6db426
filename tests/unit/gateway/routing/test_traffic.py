"""Routes are merged by generation, whatever the order in which they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute


def route(model: str, generation: int) -> ModelRoute:
    version = VersionRoute(version=str(generation), revision=f"{model}/{generation}")
    return ModelRoute(model=model, generation=generation, versions=(version,))


@pytest.mark.parametrize(
    ("hopeless", "code", "waits"),
    [(False, ErrorCode.NO_READY_REPLICA, True), (True, ErrorCode.NOT_SERVABLE, False)],
)
def test_who_calls_what_can_never_be_served_is_not_told_to_wait(
    hopeless: bool, code: ErrorCode, waits: bool
) -> None:
    routes = Routes()
    dead = ModelRoute(model="a", generation=1, reason="version 1 is broken", hopeless=hopeless)
    routes.take_table(RoutingTable(generation=1, models={"a": dead}))
    with pytest.raises(PenstockError, match="version 1 is broken") as caught:
        routes.resolve("a", None)
    assert (caught.value.code, caught.value.retryable) == (code, waits)


changes = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=8)


def history(changed: list[tuple[str, bool]]) -> list[RoutingTable]:
    """Tables as registry_sync would write them: one model set or removed at a time."""
    tables = [RoutingTable(generation=100)]
    for step, (model, keep) in enumerate(changed, start=101):
        models = dict(tables[-1].models)
        models.pop(model, None)
        if keep:
            models[model] = route(model, step)
        tables.append(RoutingTable(generation=step, models=models))
    return tables


@given(changes, st.data())
def test_the_newest_table_wins_in_any_order_and_with_announcements(
    changed: list[tuple[str, bool]], data: st.DataObject
) -> None:
    tables = history(changed)
    routes = Routes()
    announced = [r for table in tables for r in table.models.values()]
    events: list[RoutingTable | ModelRoute] = data.draw(st.permutations([*tables, *announced]))
    for event in events:
        if isinstance(event, RoutingTable):
            routes.take_table(event)
        else:
            routes.take_announced(event)
    assert routes.models() == tables[-1].models
    assert routes.generation == tables[-1].generation


@given(changes)
def test_without_a_table_the_newest_announcement_of_each_model_wins(
    changed: list[tuple[str, bool]],
) -> None:
    announced = [r for table in history(changed) for r in table.models.values()]
    routes = Routes()
    for announcement in reversed(announced):
        routes.take_announced(announcement)
    newest: dict[str, ModelRoute] = {}
    for announcement in announced:
        newest[announcement.model] = announcement
    assert routes.models() == newest
