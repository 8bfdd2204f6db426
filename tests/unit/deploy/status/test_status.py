"""Desired and actual state side by side."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from rich.console import Console

from penstock.deploy.local.cli.tables import table_console
from penstock.deploy.local.status.document import summarize
from penstock.deploy.local.status.tables import print_tables
from penstock.deploy.local.status.verdict import exit_code
from penstock.deploy.local.status.wait import states_of
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    GatewayReport,
    Phase,
    ReplicaReport,
    ReplicaSettings,
    ReplicaState,
    RevisionDeployment,
    SyncReport,
    VersionStatus,
    WorkerReport,
)
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute


def revision(version: str, phase: Phase, message: str = "") -> RevisionDeployment:
    return RevisionDeployment(
        model="digits",
        version=version,
        revision=f"r{version}",
        source=ArtifactSource(uri=f"models:/digits/{version}", tracking_uri="http://m"),
        manifest=ArtifactManifest(files=()),
        settings=ReplicaSettings(),
        phase=phase,
        message=message,
    )


def replica(version: str, state: ReplicaState) -> ReplicaReport:
    return ReplicaReport(
        key=f"digits-{version}-0",
        replica=f"replica-{version}",
        model="digits",
        version=version,
        revision=f"r{version}",
        state=state,
        device="cpu",
        pid=77,
        queued_rows=3,
        executing_rows=2,
    )


DEPLOYMENT = Deployment(
    revisions={
        "r10": revision("10", Phase.LOADING, "2nd try"),
        "r9": revision("9", Phase.SERVING),
    }
)
ROUTING = RoutingTable(
    generation=5,
    models={
        "digits": ModelRoute(
            model="digits", generation=5, versions=(VersionRoute(version="9", revision="r9"),)
        ),
        "lost": ModelRoute(model="lost", generation=4, reason="every version is off"),
    },
)
WORKER = WorkerReport(
    worker="worker-0",
    incarnation="i",
    node="n",
    pid=70,
    devices=("cpu",),
    cores=2,
    memory_bytes=1,
    replicas=(replica("9", ReplicaState.READY), replica("10", ReplicaState.LOADING)),
)
GATEWAY = GatewayReport(
    gateway="gateway-0", incarnation="i", node="n", pid=60, endpoint="ipc://x", generation=4
)


def test_versions_are_in_order_with_role_phase_and_replicas() -> None:
    status = summarize(DEPLOYMENT, ROUTING, [WORKER], [GATEWAY])
    digits, lost = status.models
    assert [each.version for each in digits.revisions] == ["9", "10"]
    stable, fresh = digits.revisions
    assert (stable.role, stable.phase, stable.replicas_ready) == ("stable", "serving", 1)
    assert (fresh.role, fresh.phase, fresh.replicas_ready) == ("", "loading", 0)
    assert stable.replicas[0].worker == "worker-0"
    assert stable.replicas[0].pid == 77
    assert (lost.revisions, lost.reason) == ([], "every version is off")


@pytest.mark.parametrize(
    ("replicas", "streams", "wanted"), [(2, False, 2), (2, True, 5), ("each", True, "each + 3")]
)
def test_replicas_for_jobs_are_wanted_too(
    replicas: int | Literal["each"], streams: bool, wanted: int | str
) -> None:
    manifest = ArtifactManifest(files=(), streams=streams)
    own = revision("9", Phase.SERVING).model_copy(
        update={"replicas": replicas, "job_replicas": 3, "manifest": manifest}
    )
    for_jobs = replica("9", ReplicaState.READY).model_copy(update={"duty": "jobs"})
    worker = WORKER.model_copy(update={"replicas": (for_jobs,)})
    status = summarize(Deployment(revisions={"r9": own}), ROUTING, [worker], [GATEWAY])
    assert status.models[0].revisions[0].replicas_wanted == wanted
    out = io.StringIO()
    print_tables(status, Console(file=out, width=120, markup=False))
    assert "ready (jobs only)" in out.getvalue()


def test_an_empty_system_has_a_status() -> None:
    status = summarize(Deployment(), RoutingTable(), [], [])
    assert status.models == []


@pytest.mark.parametrize("width", [80, 200])
def test_tables_show_what_an_operator_looks_for(width: int) -> None:
    out = io.StringIO()
    status = summarize(DEPLOYMENT, ROUTING, [WORKER], [GATEWAY])
    print_tables(status, Console(file=out, width=width, markup=False))
    text = out.getvalue()
    assert "every version is off" in text
    assert "digits/10: 2nd try" in text
    for shown in ("digits", "replica-9", "77", "serving", "ready", "5"):
        assert shown in text
    assert "…" not in text
    if width == 200:
        assert "not up to date" in text


def test_what_is_not_deployed_is_listed_in_the_words_of_the_tags() -> None:
    told = [
        ("digits", "9", "serving", "until version 10 is ready"),
        ("digits", "10", "loading", "0 of 1 replicas are ready"),
        ("digits", "2", "superseded", "version 9 is stable"),
        ("broken", "1", "invalid", "role 'canari' is unknown"),
    ]
    statuses = tuple(
        VersionStatus(model=model, version=version, status=word, message=message)
        for model, version, word, message in told
    )
    sync = SyncReport(sync="s", node="n", pid=1, statuses=statuses, statuses_left_out=3)
    standby = SyncReport(sync="t", node="n", pid=2)
    status = summarize(DEPLOYMENT, ROUTING, [WORKER], [GATEWAY], [sync, standby])
    assert [each.model for each in status.models] == ["broken", "digits", "lost"]
    assert [each.version for each in status.models[1].versions] == ["2", "9", "10"]
    out = io.StringIO()
    print_tables(status, Console(file=out, width=100, markup=False))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["broken", "1", "invalid"] in rows
    assert ["digits", "2", "superseded"] in rows
    assert ["digits", "9", "stable", "serving", "1", "of", "1"] in rows
    assert ["digits", "10", "loading", "0", "of", "1"] in rows
    assert "broken/1: role 'canari' is unknown" in out.getvalue()
    assert "and 3 more versions" in out.getvalue()


@pytest.mark.parametrize("name", ["m" * 256, "模" * 256, "a b " * 60, "x\x1b[2Jy\nz"])
def test_long_and_odd_names_leave_the_other_columns_whole(name: str) -> None:
    named = {
        key: each.model_copy(update={"model": name}) for key, each in DEPLOYMENT.revisions.items()
    }
    route = ROUTING.models["digits"].model_copy(update={"model": name})
    routing = RoutingTable(generation=5, models={name: route})
    status = summarize(Deployment(revisions=named), routing, [WORKER], [GATEWAY])
    out = io.StringIO()
    print_tables(status, Console(file=out, width=80, markup=False))
    text = out.getvalue()
    assert "stable" in text
    assert "serving" in text
    assert "1 of 1" in text
    assert "replica-9" in text
    assert "…" not in text
    assert "\x1b" not in text


def test_a_note_is_shown_once_in_tables_and_in_json() -> None:
    note = "not batched: output 'y' has 4 rows for one row"
    noted = replica("9", ReplicaState.READY).model_copy(update={"note": note})
    worker = WORKER.model_copy(update={"replicas": (noted, noted)})
    status = summarize(DEPLOYMENT, ROUTING, [worker], [GATEWAY])
    revision = status.models[0].revisions[0]
    assert revision.notes == [note]
    assert [each.note for each in revision.replicas] == [note, note]
    out = io.StringIO()
    print_tables(status, Console(file=out, width=80, markup=False))
    assert out.getvalue().count(f"digits/9: {note}") == 1


def test_where_there_is_no_terminal_every_row_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, worker = "m" * 200, "worker-" + "w" * 200
    own = revision("9", Phase.SERVING).model_copy(update={"model": name})
    report = WORKER.model_copy(update={"worker": worker})
    status = summarize(Deployment(revisions={"r9": own}), ROUTING, [report], [GATEWAY])
    print_tables(status, table_console())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [f"{name}/9", "replica-9", "77", worker, "cpu", "ready", "5"] in rows
    assert [name, "9", "serving", "1", "of", "1"] in rows


def test_what_is_never_tried_again_is_invalid_and_not_failed() -> None:
    tried = revision("9", Phase.FAILED).model_copy(update={"retry_at": 5.0})
    deployment = Deployment(revisions={"r9": tried, "r10": revision("10", Phase.FAILED)})
    [digits] = summarize(deployment, RoutingTable(), [], []).models
    assert [each.phase for each in digits.revisions] == ["failed", "invalid"]


SYNC = SyncReport(sync="sync-0", node="n", pid=50)


def told(word: str) -> SyncReport:
    status = VersionStatus(model="digits", version="9", status=word)
    return SYNC.model_copy(update={"statuses": (status,)})


def judged(
    phase: Phase = Phase.SERVING,
    state: ReplicaState = ReplicaState.READY,
    gateways: tuple[GatewayReport, ...] = (GATEWAY,),
    syncs: tuple[SyncReport, ...] = (SYNC,),
) -> int:
    worker = WORKER.model_copy(update={"replicas": (replica("9", state),)})
    deployment = Deployment(revisions={"r9": revision("9", phase)})
    return exit_code(summarize(deployment, ROUTING, [worker], list(gateways), syncs))


def test_all_is_well_where_everything_serves() -> None:
    assert judged() == 0
    assert judged(syncs=(told("serving"),)) == 0
    assert judged(syncs=(told("retired"),)) == 0
    assert exit_code(summarize(Deployment(), RoutingTable(), [], [GATEWAY], [SYNC])) == 0


def test_what_failed_or_is_invalid_goes_before_what_is_loading() -> None:
    assert judged(phase=Phase.FAILED) == 1
    assert judged(phase=Phase.LOADING, syncs=(told("invalid"),)) == 1
    assert judged(state=ReplicaState.FAILED) == 1
    assert judged(state=ReplicaState.INVALID) == 1


def test_what_is_not_there_yet_is_told_apart_from_what_failed() -> None:
    assert judged(phase=Phase.LOADING) == 3
    assert judged(syncs=(told("ready"),)) == 3
    assert judged(state=ReplicaState.BACKOFF) == 3
    assert judged(gateways=()) == 3
    assert judged(syncs=()) == 3


def test_replicas_on_each_worker_are_short_where_there_is_none() -> None:
    own = revision("9", Phase.SERVING).model_copy(update={"replicas": "each"})
    deployment = Deployment(revisions={"r9": own})
    assert exit_code(summarize(deployment, ROUTING, [WORKER], [GATEWAY], [SYNC])) == 0
    assert exit_code(summarize(deployment, ROUTING, [], [GATEWAY], [SYNC])) == 3


def test_what_a_tag_says_of_lost_batching_is_in_tables_and_json() -> None:
    message = "one row at a time: output 'y' differs in a batch"
    status = VersionStatus(model="digits", version="9", status="serving", message=message)
    sync = SYNC.model_copy(update={"statuses": (status,)})
    document = summarize(DEPLOYMENT, ROUTING, [WORKER], [GATEWAY], [sync])
    assert message in document.model_dump_json()
    out = io.StringIO()
    print_tables(document, Console(file=out, width=80, markup=False))
    assert out.getvalue().count(f"digits/9: {message}") == 1


def test_a_version_whose_change_loads_is_where_its_best_revision_is() -> None:
    change = revision("9", Phase.LOADING).model_copy(update={"revision": "r9b"})
    deployment = Deployment(revisions={"r9b": change, **DEPLOYMENT.revisions})
    [digits, _] = summarize(deployment, ROUTING, [WORKER], [GATEWAY]).models
    words = {each.version: each.word for each in states_of(digits)}
    assert words == {"9": "serving", "10": "loading"}


def test_what_a_tag_says_goes_before_a_phase() -> None:
    tagged = summarize(DEPLOYMENT, ROUTING, [WORKER], [GATEWAY], [told("ready")])
    words = {each.version: (each.word, each.deployed) for each in states_of(tagged.models[0])}
    assert words == {"9": ("ready", True), "10": ("loading", True)}
