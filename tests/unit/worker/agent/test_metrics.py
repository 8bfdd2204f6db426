"""What the agent exposes of its replicas' counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState
from penstock.worker.agent.events import KillReason
from penstock.worker.agent.metrics import REASONS_MAX, AgentCollector, ReplicaTotals
from penstock.worker.control.messages import Heartbeat

DIGITS = ("digits", "1")


def beat(requests: int) -> Heartbeat:
    return Heartbeat(requests=requests, rows=2 * requests, dispatched={"idle": requests})


@given(lives=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5))
def test_totals_never_fall(lives: list[list[int]]) -> None:
    totals, last, expected = ReplicaTotals(), 0, 0
    for number, steps in enumerate(lives):
        totals.began(DIGITS, f"r{number}", restart=number > 0)
        counted = 0
        for step in steps:
            counted += step
            totals.beat(DIGITS, f"r{number}", beat(counted))
            now = totals.snapshot(()).totals[DIGITS].requests
            assert now >= last
            last = now
        totals.ended(DIGITS, f"r{number}")
        totals.beat(DIGITS, f"r{number}", beat(1000))  # late: that life is over
        expected += counted
    if lives:
        snapshot = totals.snapshot(())
        assert snapshot.totals[DIGITS].requests == expected
        assert snapshot.totals[DIGITS].rows == 2 * expected
        assert snapshot.totals[DIGITS].dispatched.get("idle", 0) == expected
        assert snapshot.restarts[DIGITS] == len(lives) - 1


def test_versions_without_replicas_are_bounded() -> None:
    totals = ReplicaTotals(versions_max=2)
    totals.began(("lives", "1"), "l", restart=False)
    for number in range(5):
        totals.began(("m", str(number)), "r", restart=False)
        totals.ended(("m", str(number)), "r")
    assert set(totals.snapshot(()).totals) == {("lives", "1"), ("m", "3"), ("m", "4")}


def test_reasons_are_bounded() -> None:
    totals = ReplicaTotals()
    totals.began(DIGITS, "r", restart=False)
    totals.beat(DIGITS, "r", Heartbeat(dispatched={str(n): 1 for n in range(100)}))
    assert len(totals.snapshot(()).totals[DIGITS].dispatched) == REASONS_MAX


def test_exposition() -> None:
    totals, collector, registry = ReplicaTotals(), AgentCollector("worker-0"), CollectorRegistry()
    registry.register(collector)
    totals.began(DIGITS, "r", restart=True)
    totals.beat(DIGITS, "r", Heartbeat(requests=3, infer_us=1_500_000, dispatched={"full": 2}))
    report = ReplicaReport(
        key="k",
        replica="r",
        model="digits",
        version="1",
        revision="x",
        state=ReplicaState.READY,
        device="cpu",
        queued_rows=7,
    )
    totals.killed(DIGITS, KillReason.HUNG)
    collector.publish(totals.snapshot((report,)))
    text = generate_latest(registry).decode()
    labels = 'model="digits",version="1"'
    for line in (
        f"penstock_replica_requests_total{{{labels}}} 3.0",
        f"penstock_replica_infer_seconds_total{{{labels}}} 1.5",
        f"penstock_replica_restarts_total{{{labels}}} 1.0",
        'penstock_replica_kills_total{model="digits",reason="hung",version="1"} 1.0',
        'penstock_replica_kills_total{model="digits",reason="execution_timeout",version="1"} 0.0',
        'penstock_replica_dispatched_total{model="digits",reason="full",version="1"} 2.0',
        'penstock_replica_states{model="digits",state="ready",version="1"} 1.0',
        f"penstock_replica_queued_rows{{{labels}}} 7.0",
    ):
        assert line in text.splitlines()


def test_batches_fall_into_buckets_by_their_size() -> None:
    totals, collector, registry = ReplicaTotals(), AgentCollector("worker-0"), CollectorRegistry()
    registry.register(collector)
    totals.began(DIGITS, "r", restart=False)
    # One batch of 1 row, two of 2, one of 3 or 4, one of more than any bucket takes.
    sizes = {0: 1, 1: 2, 2: 1, 40: 1}
    totals.beat(DIGITS, "r", Heartbeat(rows=2000, batches=5, batch_sizes=sizes))
    totals.ended(DIGITS, "r")
    collector.publish(totals.snapshot(()))
    labels = {"model": "digits", "version": "1"}

    def below(bound: str) -> float | None:
        name = "penstock_replica_batch_rows_bucket"
        return registry.get_sample_value(name, {**labels, "le": bound})

    bounds = ("1.0", "2.0", "4.0", "1024.0", "+Inf")
    assert [below(bound) for bound in bounds] == [1, 3, 4, 4, 5]
    assert registry.get_sample_value("penstock_replica_batch_rows_sum", labels) == 2000
    assert registry.get_sample_value("penstock_replica_batch_rows_count", labels) == 5
