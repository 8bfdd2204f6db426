"""Why a gateway is not ready."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.inference.readiness import (
    CHARS_MAX,
    DRAINS,
    NAMES_MAX,
    NO_NEWS,
    why_not_ready,
)
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute

NO_NEWS_SAID = f"; {NO_NEWS}, so nothing new is heard of"


def routes_of(*models: ModelRoute) -> Routes:
    routes = Routes()
    routes.take_table(RoutingTable(generation=1, models={each.model: each for each in models}))
    return routes


def routed(name: str) -> ModelRoute:
    version = VersionRoute(version="1", revision=f"{name}/1")
    return ModelRoute(model=name, generation=1, versions=(version,))


def unrouted(name: str, reason: str = "") -> ModelRoute:
    return ModelRoute(model=name, generation=1, reason=reason)


def why(
    routes: Routes,
    ready: tuple[str, ...] = (),
    *,
    store: bool | None = True,
    when: Literal["any", "all"] = "any",
    draining: bool = False,
) -> str:
    return why_not_ready(draining, routes, store, when, lambda route: route.model in ready)


@pytest.mark.parametrize(
    ("store", "said"), [(None, "was not read"), (False, NO_NEWS), (True, "no registry_sync")]
)
def test_without_routes_it_tells_whether_the_store_is_why(store: bool | None, said: str) -> None:
    assert said in why(Routes(), store=store)


def test_whoever_drains_says_nothing_else() -> None:
    assert why(routes_of(routed("m")), ("m",), draining=True) == DRAINS


def test_models_without_a_replica_are_named_and_those_without_a_version_say_why() -> None:
    routes = routes_of(routed("b"), unrouted("a", "version 3 is loading"), unrouted("c"))
    assert why(routes) == (
        "model 'a': version 3 is loading; no replica of model 'b' is ready; "
        "model 'c': no version of it is deployed"
    )
    assert why(routes, ("b",)) == ""
    assert why(routes, ("b",), when="all") == ""  # what has no version is nobody's to wait for


def test_all_means_all() -> None:
    routes = routes_of(routed("a"), routed("b"))
    assert why(routes, ("a",), when="all") == "no replica of model 'b' is ready"
    assert why(routes, ("a",)) == ""


def test_an_empty_registry_says_so() -> None:
    assert why(routes_of()) == "no model is deployed"


def test_a_store_that_is_away_is_said_beside_it_but_makes_nothing_unready() -> None:
    assert why(routes_of(routed("m")), store=False).endswith(NO_NEWS_SAID)
    assert why(routes_of(routed("m")), ("m",), store=False) == ""


def test_a_reason_is_bounded() -> None:
    many = routes_of(*(routed(f"model-{at:03}") for at in range(40)))
    assert why(many).count("no replica of") == NAMES_MAX
    assert why(many).endswith(f"and {40 - NAMES_MAX} more models")
    assert len(why(routes_of(unrouted("m", "x" * 10_000)))) == CHARS_MAX


@given(
    models=st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.booleans(), st.booleans())),
    when=st.sampled_from(["any", "all"]),
    store=st.sampled_from([None, False, True]),
)
def test_there_is_a_reason_exactly_if_it_is_not_ready(
    models: dict[str, tuple[bool, bool]], when: Literal["any", "all"], store: bool | None
) -> None:
    routes = routes_of(*(routed(n) if has else unrouted(n) for n, (has, _) in models.items()))
    ready = [name for name, (has, is_ready) in models.items() if has and is_ready]
    states = [name in ready for name, (has, _) in models.items() if has]
    expected = all(states) if when == "all" else any(states)
    assert (why(routes, tuple(ready), store=store, when=when) == "") is expected
