"""What `penstock off` says that it ends, and what `penstock status` shows of what is gone."""

from __future__ import annotations

import io

from rich.console import Console

from penstock.deploy.local.commands.ending import ending_of, listed
from penstock.deploy.local.status.document import ModelStatus, SystemStatus, summarize
from penstock.deploy.local.status.tables import print_tables
from penstock.shared.contracts.deployment import (
    Deployment,
    Phase,
    ReplicaState,
    SyncReport,
    VersionStatus,
)
from penstock.shared.contracts.routing import RoutingTable
from tests.unit.deploy.status.test_status import WORKER, replica, revision

TROUBLE = "registry: HTTP 503 Service Unavailable"


def system(*phases: tuple[str, Phase], told: tuple[VersionStatus, ...] = ()) -> SystemStatus:
    """Versions of `digits` in these phases, each with a replica that is ready."""
    revisions = {f"r{version}": revision(version, phase) for version, phase in phases}
    replicas = tuple(replica(version, ReplicaState.READY) for version, _ in phases)
    worker = WORKER.model_copy(update={"replicas": replicas})
    sync = SyncReport(sync="s", node="n", pid=1, statuses=told, troubles=(TROUBLE,))
    return summarize(Deployment(revisions=revisions), RoutingTable(), [worker], [], [sync])


def digits(*phases: tuple[str, Phase], told: tuple[VersionStatus, ...] = ()) -> ModelStatus:
    (model,) = system(*phases, told=told).models
    return model


def status(version: str, word: str, *, gone: bool = False) -> VersionStatus:
    return VersionStatus(model="digits", version=version, status=word, gone=gone)


def test_the_version_that_serves_ends_once_the_one_that_loads_is_ready() -> None:
    model = digits(("1", Phase.SERVING), ("2", Phase.LOADING))
    ending = ending_of(model, "1")
    assert ending is not None
    assert ending.versions == ("1",)
    assert ending.lines == (
        "version 1: serving, 1 replica ready, 5 rows queued or executing",
        "version 1 serves until version 2 is ready",
    )


def test_a_version_that_loads_is_dropped_and_the_other_goes_on() -> None:
    model = digits(("1", Phase.SERVING), ("2", Phase.LOADING))
    ending = ending_of(model, "2")
    assert ending is not None
    assert ending.lines[-1] == "version 1 goes on to serve"


def test_all_of_a_model_is_also_what_would_take_over() -> None:
    told = (status("1", "serving"), status("0", "superseded"), status("7", "retired"))
    ending = ending_of(digits(("1", Phase.SERVING), told=told), None)
    assert ending is not None
    assert ending.versions == ("1", "0")
    assert ending.lines[-1].startswith("nothing else of it is deployed")


def test_what_does_not_serve_yet_is_no_loss() -> None:
    ending = ending_of(digits(("1", Phase.LOADING)), None)
    assert ending is not None
    assert ending.lines[-1] == "none of it serves now"


def test_a_version_that_is_not_there_is_not_ended() -> None:
    model = digits(("1", Phase.SERVING), told=(status("7", "retired"),))
    assert ending_of(model, "7") is None
    assert listed(model) == "1"


def test_a_status_shows_what_is_gone_and_what_does_not_work() -> None:
    out = io.StringIO()
    shown = system(("1", Phase.SERVING), told=(status("1", "serving", gone=True),))
    print_tables(shown, Console(file=out, width=120))
    assert "serving, gone" in out.getvalue()
    assert f"s: {TROUBLE}" in out.getvalue()
