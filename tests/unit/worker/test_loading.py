"""A load of a model that an earlier one found something out about."""

from __future__ import annotations

from pathlib import Path

from shared.deployment import ReplicaSettings
from shared.findings import Finding
from shared.routing import ModelRoute, VersionRoute
from tests import mlflow_models as models
from worker.control import Start
from worker.loading import Loaded, load


def loaded(folder: Path, finding: Finding | None) -> Loaded:
    route = VersionRoute(version="1", revision="m/1")
    start = Start(
        key="m/1@w#0",
        replica="r",
        worker="w",
        model="m",
        version="1",
        revision="m/1",
        model_path=str(folder),
        settings=ReplicaSettings(threads=1),
        device="cpu",
        finding=finding,
        gateways=(),
        route=ModelRoute(model="m", generation=1, versions=(route,)),
    )
    result = load(start)
    assert isinstance(result, Loaded), result
    return result


def test_a_finding_spares_later_loads_the_trial_unless_it_does_not_tell_what_was_tried(
    tmp_path: Path,
) -> None:
    folder = models.scaled(tmp_path / "m")
    first = loaded(folder, None)
    assert first.fresh
    assert first.finding.tried == (("x",),)
    later = loaded(folder, first.finding)
    assert (later.fresh, later.finding) == (False, first.finding)
    old = first.finding.model_copy(update={"tried": None})
    anew = loaded(folder, old)
    assert (anew.fresh, anew.finding.tried) == (True, (("x",),))
