"""A gateway's spans: one for each attempt of a call that is traced, ended in every way."""

from __future__ import annotations

from penstock.gateway.dispatch.replicas import Replica
from penstock.gateway.inference.spans import AttemptSpans
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Failure, Final, Load, Nack, NackReason, Request
from tests.unit.fake_tracer import PARENT, FakeTracer

REPLICA = Replica(
    id="r",
    worker="w",
    model="digits",
    version="1",
    revision="x",
    interface=ModelInterface(inputs=(), outputs=(), max_batch_size=0, platform="p"),
    heard_at=0.0,
)


def begin(spans: AttemptSpans, attempt_id: int, context: str = PARENT) -> Request:
    return spans.begin(Request(attempt_id, 2_000, (), traceparent=context), 2, REPLICA)


def test_the_attempts_span_takes_the_place_of_its_parent() -> None:
    tracer = FakeTracer()
    sent = begin(AttemptSpans(tracer), 1)
    (span,) = tracer.spans
    assert span.parent == PARENT
    assert sent.traceparent == span.context
    expected = {"penstock.replica": "r", "penstock.attempt": 2, "penstock.budget_ms": 2.0}
    assert expected.items() <= span.attributes.items()


def test_what_is_not_sampled_passes_through() -> None:
    spans = AttemptSpans(FakeTracer())
    for context in ("", PARENT[:-1] + "0"):
        assert begin(spans, 1, context).traceparent == context
    assert not len(spans)


def test_each_way_to_end_ends_it() -> None:
    tracer = FakeTracer()
    spans = AttemptSpans(tracer)
    for attempt_id in range(6):
        begin(spans, attempt_id)
    spans.heard(Load(0, 0, 0))
    spans.heard(Final(0))
    spans.heard(Final(1, failure=Failure(ErrorCode.MODEL_ERROR, "")))
    spans.heard(Nack(2, NackReason.DRAINING))
    spans.end(3, "cancelled")
    spans.lost([4, 5, 99])
    spans.heard(Final(4))  # late
    outcomes = [span.attributes["penstock.outcome"] for span in tracer.spans]
    assert outcomes == ["ok", "model_error", "nack_draining", "cancelled", "lost", "lost"]
    assert [span.failure for span in tracer.spans] == ["", *outcomes[1:]]
    assert not len(spans)
