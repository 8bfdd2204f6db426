"""Which version answers a call, and what routes a gateway goes by.

Routes come from the state store and, so that a gateway can start without it, from what replicas
announce. One rule merges them: of two routes of a model, the one of the higher generation counts;
a table counts as a whole, so a model that it leaves out is gone unless it was announced later.
"""

from __future__ import annotations

from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute

NAME_SHOWN_MAX = 256
"""Most characters of a name that nobody has deployed in messages and logs: clients invent them."""


def _shown(name: str) -> str:
    return repr(name if len(name) <= NAME_SHOWN_MAX else f"{name[:NAME_SHOWN_MAX]}...")


class Routes:
    """The routes known to this gateway."""

    def __init__(self) -> None:
        self._table = RoutingTable()
        self._models: dict[str, ModelRoute] = {}

    def __repr__(self) -> str:
        return f"<Routes generation {self._table.generation}, models {sorted(self._models)}>"

    @property
    def generation(self) -> int:
        """Generation of the newest table taken in; 0 before the first one."""
        return self._table.generation

    @property
    def known(self) -> bool:
        """Whether anything at all is known of routing."""
        return self._table.generation > 0 or bool(self._models)

    def models(self) -> dict[str, ModelRoute]:
        """Routes by model name; not to be changed."""
        return self._models

    def take_table(self, table: RoutingTable) -> bool:
        """Take in a table from the state store; False if it is no newer than the last one."""
        if table.generation <= self._table.generation:
            return False
        later = {
            name: route
            for name, route in self._models.items()
            if route.generation > table.generation
        }
        self._table = table
        self._models = {**table.models, **later}
        return True

    def take_announced(self, route: ModelRoute) -> bool:
        """Take in a route that a replica announced; False if it tells nothing new."""
        known = self._models.get(route.model)
        newest = max(known.generation if known else 0, self._table.generation)
        if route.generation <= newest:
            return False
        self._models[route.model] = route
        return True

    def resolve(self, model: str, pinned: str | None) -> VersionRoute:
        """The version that is to answer a call.

        Raises:
            PenstockError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, NO_READY_REPLICA for a model of which
                nothing can be reached now, or NOT_SERVABLE where no waiting helps.
        """
        route = self._models.get(model)
        if route is None:
            raise PenstockError(ErrorCode.MODEL_NOT_FOUND, f"model {_shown(model)} is not deployed")
        if pinned is not None:
            version = route.version(pinned)
            if version is None:
                served = ", ".join(v.version for v in route.versions) or "none"
                raise PenstockError(
                    ErrorCode.VERSION_NOT_FOUND,
                    f"version {_shown(pinned)} of model {model!r} is not deployed "
                    f"(deployed: {served})",
                )
            return version
        weighted = [version for version in route.versions if version.weight > 0]
        if not weighted:
            reason = route.reason or "no version of it is deployed"
            message = f"model {model!r} cannot answer: {reason}"
            if route.hopeless:
                raise PenstockError(ErrorCode.NOT_SERVABLE, message)
            raise PenstockError(ErrorCode.NO_READY_REPLICA, message, 1.0)
        return weighted[0]
