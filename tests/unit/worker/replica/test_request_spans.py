"""A replica's spans: each begins and ends once, and nothing is kept of those that ended."""

from __future__ import annotations

from collections.abc import Callable

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Cancel, Failure, Final, Message, Nack, NackReason, Request
from penstock.worker.replica.request_spans import SPANS_MAX, RequestSpans
from penstock.worker.session.batching import Item
from penstock.worker.session.outcomes import Completed, Failed, FailureKind
from tests.unit.fake_tracer import PARENT, FakeTracer


def request(attempt_id: int, context: str = PARENT) -> Request:
    return Request(attempt_id, 1_000_000, (), traceparent=context)


def item(attempt_id: int) -> Item:
    return Item(("g", attempt_id), "b", 2, 5, 1.0, 1.0, 0.0, request(attempt_id))


def spans() -> tuple[RequestSpans, FakeTracer]:
    tracer = FakeTracer()
    return RequestSpans(tracer, "digits", "1"), tracer


def test_a_batch_and_its_members_point_to_each_other() -> None:
    it, tracer = spans()
    for number in (1, 2):
        it.received("g", request(number))
    it.received("g", request(3, ""))
    it.executing([item(1), item(2), item(3)], "full")
    it.executed(Completed(((), (), ()), 0.25))
    for number in (1, 2, 3):
        it.sent("g", Final(number, queue_us=1500, infer_us=250_000, batch_rows=6))
    one, two, batch = tracer.spans
    assert batch.links == [one.context, two.context]
    assert batch.parent == one.context
    assert one.links == two.links == [batch.context]
    expected = {"penstock.batch.rows": 6, "penstock.batch.requests": 3, "penstock.infer_ms": 250.0}
    assert expected.items() <= batch.attributes.items()
    assert {"penstock.queue_ms": 1.5, "penstock.outcome": "ok"}.items() <= one.attributes.items()
    assert [span.failure for span in tracer.spans] == ["", "", ""]
    assert not len(it)


def test_each_way_to_end_ends_it() -> None:
    it, tracer = spans()
    ends: tuple[tuple[Callable[[str, Message], None], Message, str], ...] = (
        (it.sent, Final(0, failure=Failure(ErrorCode.MODEL_ERROR, "")), "model_error"),
        (it.sent, Nack(1, NackReason.FULL), "nack_full"),
        (it.received, Cancel(2), "cancelled"),
    )
    for number, (tell, message, outcome) in enumerate(ends):
        it.received("g", request(number))
        tell("g", message)
        tell("g", message)  # again: it has ended
        assert tracer.spans[number].failure == outcome
    assert not len(it)


def test_a_batch_that_failed_says_how_and_its_parts_are_batches_too() -> None:
    it, tracer = spans()
    it.received("g", request(1))
    it.executing([item(1)], "idle")
    it.executed(Failed(FailureKind.INPUT, 0.1))
    it.executing([item(1)], "again")
    it.executed(Failed(FailureKind.INPUT, 0.1))
    _, first, again = tracer.spans
    assert (first.failure, again.failure) == ("input", "input")
    assert again.attributes["penstock.batch.reason"] == "again"


def test_requests_that_are_not_sampled_cost_no_span() -> None:
    it, tracer = spans()
    for context in ("", "nonsense", PARENT[:-1] + "0"):
        it.received("g", request(1, context))
    it.executing([item(1)], "idle")
    it.executed(Completed(((),), 0.1))
    it.sent("g", Final(1))
    assert tracer.spans == []


def test_open_spans_are_bounded() -> None:
    it, tracer = spans()
    for number in range(SPANS_MAX + 1):
        it.received("g", request(number))
    assert len(it) == SPANS_MAX
    assert tracer.spans[0].failure == "unanswered"
    assert not tracer.spans[1].ended


def test_a_copy_of_a_request_begins_nothing() -> None:
    it, tracer = spans()
    it.received("g", request(1))
    it.received("g", request(1))
    assert len(tracer.spans) == 1
