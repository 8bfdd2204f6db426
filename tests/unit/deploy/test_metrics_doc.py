"""docs/metrics.md against what the processes really expose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from penstock.deploy.local.system.metrics_pages import LARGEST
from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.dispatch.counters import DispatchCounters
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.policies.throttle import ThrottleSettings
from penstock.gateway.dispatch.replicas import Revision, RevisionSettings
from penstock.gateway.http.metrics import HttpMetrics
from penstock.gateway.inference.metrics import DispatchCollector, Pieces
from penstock.gateway.inference.types import DeployedModel
from penstock.gateway.jobs.keeper.keeper import JobFigures
from penstock.gateway.jobs.metrics import JobsCollector
from penstock.gateway.memory.metrics import HeldBytesCollector
from penstock.registry_sync.daemon.metrics import SyncCollector, SyncCounts
from penstock.registry_sync.daemon.registry_metrics import RegistryCollector
from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState
from penstock.shared.jobs.answers import ModelStats, QueueStats, StoreStats
from penstock.shared.jobs.record import JobState
from penstock.shared.jobs.totals import totals_of
from penstock.shared.process.build_info import BuildInfoCollector
from penstock.shared.process.restarts import Restarts, RestartsCollector
from penstock.worker.agent.metrics import AgentCollector, ReplicaTotals
from penstock.worker.control.messages import Heartbeat

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(penstock_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (\w*) ?\| (.+) \|$")


@dataclass(frozen=True)
class Row:
    """A metric, as documented or as exposed."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Row]:
    """The rows of the document's tables, by name."""
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        if match := ROW.match(line):
            name, kind, labels, _, _ = match.groups()
            assert name not in rows, f"{name} is documented twice"
            rows[name] = Row(kind, frozenset(filter(None, labels.split(", "))))
    return rows


class Service:
    """A gateway's service as far as its metrics go."""

    counters = DispatchCounters()
    generation = 7
    parked_calls = 0
    copied_bytes = 0
    large_calls: Pieces = SimpleNamespace(begun=0, pieces=0)

    def deployed_models(self) -> tuple[DeployedModel, ...]:
        return (DeployedModel("idle", (), ""),)

    def open_calls(self) -> dict[str, int]:
        return {"busy": 3}

    def called_models(self) -> list[ModelState]:
        return [ModelState("busy", ThrottleSettings(), 0.05)]

    def revisions(self) -> list[Revision]:
        return [Revision("busy/1-a", 1.5, RevisionSettings())]

    def ready_counts(self) -> dict[str, int]:
        return {"busy/1-a": 1}


class Keeper:
    """A gateway's keeper of jobs as far as its metrics go."""

    webhooks = MappingProxyType({"delivered": 1})
    figures = JobFigures(
        StoreStats(
            jobs=1,
            bytes=2,
            states={JobState.QUEUED: 1},
            models={"digits": ModelStats(1, 0, 0, 0)},
            queues={("digits", "digits/1-a"): QueueStats(1, 1500)},
            garbage=0,
        ),
        totals={"digits": totals_of({"submitted": "1"})},
        backlog_s={"digits": 2.5},
        reachable=True,
    )


class Sync:
    """A registry_sync daemon as far as its metrics go."""

    leading = True
    registry_age_s = 1.5
    hanging_calls = 0
    gone_versions = 0
    contested_versions = 0


def gateway() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(DispatchCollector(Service()))
    registry.register(JobsCollector(Keeper(), Service()))
    registry.register(HeldBytesCollector(ClientBounds()))
    registry.register(RestartsCollector(Restarts(["job_keeper"])))
    HttpMetrics(registry).record("digits", "1", "ok", 0.01, 10, 20)
    return registry


def worker() -> CollectorRegistry:
    totals, collector = ReplicaTotals(), AgentCollector("worker-0")
    totals.began(("digits", "1"), "r", restart=False)
    totals.beat(("digits", "1"), "r", Heartbeat())
    report = ReplicaReport(
        key="k",
        replica="r",
        model="digits",
        version="1",
        revision="x",
        state=ReplicaState.READY,
        device="cpu",
    )
    collector.publish(totals.snapshot((report,)))
    registry = CollectorRegistry()
    registry.register(collector)
    registry.register(totals.loads)
    registry.register(BuildInfoCollector())
    return registry


def sync() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SyncCollector(SyncCounts(), Sync()))
    registry.register(RegistryCollector(Sync()))
    return registry


def exposed(registry: CollectorRegistry) -> dict[str, Row]:
    return {_name(family): _row(family) for family in registry.collect()}


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _row(family: Metric) -> Row:
    assert family.samples, f"{family.name} shows nothing"
    assert family.documentation, family.name
    labels = {label for sample in family.samples for label in sample.labels}
    return Row(family.type, frozenset(labels - {"le"}))


def test_the_document_tells_what_the_processes_expose() -> None:
    assert documented() == exposed(gateway()) | exposed(worker()) | exposed(sync())


def test_the_document_tells_of_what_the_sum_shows_the_largest() -> None:
    rows = filter(None, map(ROW.match, DOCUMENT.read_text().splitlines()))
    assert {row[1].removesuffix("_total") for row in rows if row[4] == "max"} == LARGEST


def test_there_are_no_created_series() -> None:
    for registry in (gateway(), worker(), sync()):
        names = {sample.name for family in registry.collect() for sample in family.samples}
        assert not [name for name in names if name.endswith("_created")]


def test_a_deployed_model_without_calls_shows_none() -> None:
    registry = gateway()
    assert registry.get_sample_value("penstock_gateway_open_calls", {"model": "idle"}) == 0
    assert registry.get_sample_value("penstock_gateway_open_calls", {"model": "busy"}) == 3


def test_reasons_and_phases_show_before_they_occur() -> None:
    for reason in ("idle", "full", "deadline", "waited"):
        labels = {"model": "digits", "version": "1", "reason": reason}
        assert worker().get_sample_value("penstock_replica_dispatched_total", labels) == 0
    for phase in ("loading", "serving", "draining", "failed", "invalid"):
        labels = {"model": "", "version": "", "phase": phase}
        assert sync().get_sample_value("penstock_sync_versions", labels) == 0


def test_a_deployed_model_without_jobs_shows_none() -> None:
    registry = gateway()
    for name in ("waiting", "in_flight", "oldest_seconds", "backlog_seconds"):
        assert registry.get_sample_value(f"penstock_jobs_{name}", {"model": "idle"}) == 0
    assert registry.get_sample_value("penstock_jobs_oldest_seconds", {"model": "digits"}) == 1.5
    assert registry.get_sample_value("penstock_jobs_backlog_seconds", {"model": "digits"}) == 2.5
