"""Why a gateway is not ready, in words for whoever asks; pure.

It is ready if it knows routes, does not drain, and enough of the routed models can be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.routing import ModelRoute

NAMES_MAX = 5
"""Most models that a reason names: it is read by people, and logged by what asks each second."""

CHARS_MAX = 500
"""Longest reason: those of models may quote long errors."""

DRAINS = "this gateway drains: it is about to end"
NO_NEWS = "the state store does not answer"

_NO_ROUTES = {
    None: "no routes are known yet: the state store was not read so far",
    False: f"no routes are known yet: {NO_NEWS}, and no replica has told of any",
    True: "no routes are known yet: no registry_sync has deployed anything",
}


def why_not_ready(
    draining: bool,
    routes: Routes,
    store_answers: bool | None,
    ready_when: Literal["any", "all"],
    is_ready: Callable[[ModelRoute], bool],
) -> str:
    """Why it is not ready; "" if it is.

    Args:
        draining: whether the gateway leaves.
        routes: what is routed.
        store_answers: whether the state store did when it was last asked; None: not asked yet.
        ready_when: whether `any` or `all` routed models must be ready.
        is_ready: whether a version of a model can be called.
    """
    if draining:
        return DRAINS
    if not routes.known:
        return _NO_ROUTES[store_answers]
    reason = _of_models(routes.models().values(), ready_when, is_ready)
    if reason and store_answers is False:
        reason = f"{reason}; {NO_NEWS}, so nothing new is heard of"
    return reason


def _of_models(
    routes: Iterable[ModelRoute],
    ready_when: Literal["any", "all"],
    is_ready: Callable[[ModelRoute], bool],
) -> str:
    routes = sorted(routes, key=lambda route: route.model)
    routed = [route for route in routes if route.versions]
    unready = [route for route in routed if not is_ready(route)]
    if ready_when == "all":
        return _told(unready)
    if len(unready) < len(routed):
        return ""
    return _told(routes) if routes else "no model is deployed"


def _told(unready: list[ModelRoute]) -> str:
    words = [_why(route) for route in unready[:NAMES_MAX]]
    if len(unready) > NAMES_MAX:
        words.append(f"and {len(unready) - NAMES_MAX} more models")
    text = "; ".join(words)
    return text if len(text) <= CHARS_MAX else f"{text[: CHARS_MAX - 3]}..."


def _why(route: ModelRoute) -> str:
    if route.versions:
        return f"no replica of model {route.model!r} is ready"
    return f"model {route.model!r}: {route.reason or 'no version of it is deployed'}"
