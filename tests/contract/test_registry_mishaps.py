"""What operators and scripts do to a real MLflow while a version serves, and what follows.

The plan sees what MLflow really answers; workers and gateways obey at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.registries import MlflowRegistry
from tests.unit.registry_sync.worlds import Scene


class Served:
    """A model whose version 1 serves, of two; `look` reads MLflow anew, and settles."""

    def __init__(self, operated: MlflowRegistry, model: str) -> None:
        self.operated = operated
        self.model = model
        self.client: Any = operated.client
        self.scene = Scene()
        operated.register(model, versions=2)
        operated.tag_version(model, "1", "penstock.role", "stable")
        self.look()
        assert self.route() == "1"

    def look(self) -> None:
        """Read MLflow, write statuses to it, and go on until nothing changes."""
        revisions = self.scene.deployment.revisions.values()
        registry = self.operated.source.observe({(each.model, each.version) for each in revisions})
        self.scene.models = {
            name: model for name, model in registry.items() if name.startswith(self.model)
        }
        for update in self.scene.settle().told:
            if not update.gone:
                self.operated.source.write_status(update)

    def route(self) -> str | None:
        return self.scene.route(self.model)


@pytest.fixture
def served(request: pytest.FixtureRequest, mlflow_uri: str, tmp_path: Path) -> Served:
    name = request.node.name.removeprefix("test_")[:60]
    return Served(MlflowRegistry(mlflow_uri, tmp_path / "to log"), name)


def test_a_deleted_version_serves_on(served: Served) -> None:
    served.client.delete_model_version(served.model, "1")
    served.look()
    assert served.route() == "1"
    assert served.scene.told("1", served.model)[2]
    served.operated.tag_version(served.model, "2", "penstock.role", "stable")
    served.look()
    assert served.route() == "2"


def test_a_deleted_model_serves_on(served: Served) -> None:
    served.client.delete_registered_model(served.model)
    served.look()
    assert served.route() == "1"
    assert served.scene.told("1", served.model)[2]


def test_a_renamed_model_serves_under_both_names(served: Served) -> None:
    served.client.rename_registered_model(served.model, f"{served.model} new")
    served.look()
    assert served.route() == "1"
    assert served.scene.told("1", served.model)[2]
    assert served.scene.route(f"{served.model} new") == "1"
    served.scene.turned_off = frozenset({(served.model, "1")})
    served.look()
    assert served.route() is None
    assert served.scene.turned_off == frozenset()
    assert served.scene.route(f"{served.model} new") == "1"


@pytest.mark.filterwarnings("ignore:.*transition_model_version_stage:FutureWarning")
def test_stages_mean_nothing_so_an_archived_version_serves_on(served: Served) -> None:
    for stage in ("Production", "Archived", "None"):
        served.client.transition_model_version_stage(served.model, "1", stage)
        served.look()
        assert served.route() == "1"
        assert served.scene.told("1", served.model)[0] == "serving"


def test_an_alias_that_is_moved_swaps_and_one_that_is_deleted_ends_nothing(
    served: Served,
) -> None:
    served.operated.set_alias(served.model, "champion", "2")
    served.look()
    assert served.route() == "2"
    served.operated.untag_version(served.model, "1", "penstock.role")
    served.client.delete_registered_model_alias(served.model, "champion")
    served.look()
    assert served.route() == "2"
    assert "nothing is named stable" in served.scene.told("2", served.model)[1]
    served.operated.set_alias(served.model, "champion", "1")
    served.look()
    assert served.route() == "1"


def test_without_its_tags_what_serves_goes_on(served: Served) -> None:
    for tag in dict(served.operated.tags_of(served.model, "1")):
        served.operated.untag_version(served.model, "1", tag)
    served.look()
    assert served.route() == "1"
    assert "nothing is named stable" in served.scene.told("1", served.model)[1]


def test_off_ends_what_serves(served: Served) -> None:
    served.operated.tag_version(served.model, "1", "penstock.role", "off")
    served.look()
    assert served.route() is None
    assert served.scene.status("1", served.model)[0] == "retired"


def test_a_registry_that_was_set_up_anew_is_not_the_one_that_is_served_from(
    served: Served,
) -> None:
    before = served.scene.deployment.revisions
    served.client.delete_registered_model(served.model)
    served.operated.register(served.model)
    served.look()
    assert served.scene.deployment.revisions == before
    assert "another version of this number" in served.scene.told("1", served.model)[1]
    served.operated.tag_version(served.model, "1", "penstock.role", "stable")
    served.look()
    assert served.route() == "1"
    assert served.scene.deployment.revisions.keys().isdisjoint(before)
    assert not served.scene.told("1", served.model)[2]
