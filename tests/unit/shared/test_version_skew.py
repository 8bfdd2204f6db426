"""What docs/operations.md promises of processes of different releases that share a store.

`written_by/<release>.json` holds what that release wrote. It is read as it stands as long as the
next release must understand this one; what fails here is to be mended, or to get another `VERSION`
and a word in the changelog.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from penstock.shared.contracts import deployment, findings, routing, tensor_spec
from penstock.shared.contracts.deployment import (
    ArtifactFile,
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    GatewayReport,
    ModelInterface,
    Phase,
    ReplicaPlacement,
    ReplicaReport,
    ReplicaSettings,
    ReplicaState,
    RevisionDeployment,
    SyncReport,
    VersionStatus,
    WorkerReport,
)
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.payload import (
    JobInput,
    JobResult,
    pack_input,
    pack_result,
    unpack_input,
    unpack_result,
)
from penstock.shared.jobs.record import Content, JobState, NewJob, fields_of, record_of
from penstock.shared.wire.codec import decode, encode
from penstock.shared.wire.messages import (
    Alone,
    Cancel,
    Chunk,
    Drain,
    Envelope,
    Failure,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Probe,
    Proceed,
    Request,
    SuspectTurn,
)
from penstock.shared.wire.tensors import Tensor

RELEASES = sorted((Path(__file__).parent / "written_by").glob("*.json"))

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
INTERFACE = ModelInterface(inputs=(SPEC,), outputs=(SPEC,), max_batch_size=8, platform="onnx")
TENSOR = Tensor("x", "FP32", (1, 2), bytes(8))
REQUEST = Request(7, 1_000, (TENSOR,), 3, True, "00-1-2-01", ("y",), (("p", 1.5),), 500)
FINAL = Final(7, (TENSOR,), None, 1, 2, 3)
ROUTE = ModelRoute(
    model="m", generation=4, versions=(VersionRoute(version="1", revision="m/1", timeout_ms=5.0),)
)

MESSAGES: dict[str, Message] = {
    "probe": Probe(True),
    "request": REQUEST,
    "suspect_turn": SuspectTurn(7),
    "alone": Alone(True),
    "load": Load(4, 2, 100, (7,)),
    "proceed": Proceed(7),
    "cancel": Cancel(7),
    "drain": Drain(),
    "hello": Hello("r-1", "w", "m", "1", "m/1", b"{}", b"{}", False),
    "chunk": Chunk(7, 1, (TENSOR,)),
    "final": FINAL,
    "failed": Final(7, (), Failure(ErrorCode.MODEL_ERROR, "it broke"), 1, 2, 3),
    "nack": Nack(7, NackReason.FULL),
}

DOCUMENTS: dict[str, BaseModel] = {
    "routing": RoutingTable(generation=4, models={"m": ROUTE}),
    "deployment": Deployment(
        revisions={
            "m/1": RevisionDeployment(
                model="m",
                version="1",
                revision="m/1",
                source=ArtifactSource(uri="models:/m/1", tracking_uri="http://mlflow"),
                manifest=ArtifactManifest(files=(ArtifactFile(path="a", size=1, sha256="0"),)),
                settings=ReplicaSettings(threads=2),
                phase=Phase.SERVING,
            )
        },
        placement=(
            ReplicaPlacement(
                key="m/1#0", model="m", version="1", revision="m/1", worker="w", device="cpu"
            ),
        ),
        serial=9,
        workers=("w-1",),
    ),
    "worker": WorkerReport(
        worker="w",
        incarnation="w-1",
        node="n",
        pid=1,
        devices=("cpu",),
        cores=2,
        memory_bytes=1,
        replicas=(
            ReplicaReport(
                key="m/1#0",
                replica="r-1",
                model="m",
                version="1",
                revision="m/1",
                state=ReplicaState.READY,
                device="cpu",
            ),
        ),
    ),
    "gateway": GatewayReport(
        gateway="g", incarnation="g-1", node="n", pid=1, endpoint="ipc:///g", ready={"m/1": 1}
    ),
    "sync": SyncReport(
        sync="s",
        node="n",
        pid=1,
        statuses=(VersionStatus(model="m", version="1", status="serving"),),
    ),
    "finding": Finding(interface=INTERFACE, merges=True, tried=(("x",),)),
}

JOB = NewJob(id=f"{1:032x}", model="m", version="1", revision="m/1", webhook="https://a.example")
JOB_FIELDS = {
    **{name: str(value) for name, value in fields_of(JOB, Content("t", 2)).items()},
    **{"state": "failed", "token": "3", "attempts": "2", "created_ms": "5"},
}
INPUT, RESULT = JobInput("mine", REQUEST), JobResult("mine", FINAL)


def written() -> dict[str, Any]:
    """What this release writes, for `written_by`: print it as JSON when a release is made."""
    return {
        "messages": {
            name: [bytes(frame).hex() for frame in encode(Envelope("g-1", (message,)))]
            for name, message in MESSAGES.items()
        },
        "documents": {name: json.loads(d.model_dump_json()) for name, d in DOCUMENTS.items()},
        "job": JOB_FIELDS,
        "input": pack_input(INPUT).hex(),
        "result": pack_result(RESULT).hex(),
    }


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def release(request: pytest.FixtureRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(request.param.read_text())
    return document


def test_messages_of_a_release_are_understood(release: dict[str, Any]) -> None:
    for name, frames in release["messages"].items():
        envelope = decode([bytes.fromhex(frame) for frame in frames])
        assert (envelope.gateway, envelope.messages) == ("g-1", (MESSAGES[name],)), name


def test_documents_of_a_release_are_understood(release: dict[str, Any]) -> None:
    for name, document in release["documents"].items():
        sample = DOCUMENTS[name]
        assert type(sample).model_validate(document) == sample, name


def test_jobs_of_a_release_are_understood(release: dict[str, Any]) -> None:
    record = record_of(release["job"])
    assert (record.job, record.state, record.token) == (JOB, JobState.FAILED, 3)
    assert unpack_input(bytes.fromhex(release["input"])) == INPUT
    assert unpack_result(bytes.fromhex(release["result"])) == RESULT


def test_a_later_release_may_say_more_in_documents() -> None:
    for name, sample in DOCUMENTS.items():
        document = with_more(json.loads(sample.model_dump_json()))
        assert type(sample).model_validate(document) == sample, name


def with_more(value: Any) -> Any:
    """The value with a member that nobody knows in each document within; maps are left alone."""
    if isinstance(value, list):
        return [with_more(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: with_more(each) for name, each in value.items()}
    is_document = any(name in value for name in ("model", "name", "uri", "files", "path", "serial"))
    return {**inner, "of_a_later_release": [1]} if is_document else inner


def test_every_document_takes_members_that_it_does_not_know() -> None:
    documents = {
        each
        for module in (deployment, findings, routing, tensor_spec)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, BaseModel)
    }
    assert len(documents) > 15
    strict = [each for each in documents if each.model_config.get("extra", "ignore") != "ignore"]
    assert strict == []


def test_a_job_takes_fields_that_it_does_not_know() -> None:
    assert record_of({**JOB_FIELDS, "of_a_later_release": "1"}) == record_of(JOB_FIELDS)


if __name__ == "__main__":
    print(json.dumps(written(), indent=1, sort_keys=True))
