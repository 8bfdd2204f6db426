"""What dispatch counts, as Prometheus metrics: read from its plain counters when scraped.

Scrapes may come from a thread of their own; what is read here is either one number, a dict whose
keys never change, or a list that is copied in one step before it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from penstock.gateway.dispatch.attempts import AttemptReason
from penstock.gateway.dispatch.counters import DispatchCounters, margin_bounds_s
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.replicas import Revision
from penstock.gateway.inference.types import DeployedModel
from penstock.shared.metrics.families import labelled


class Pieces(Protocol):
    """What is counted of large requests."""

    begun: int
    pieces: int


class Measured(Protocol):
    """What the collector reads."""

    @property
    def counters(self) -> DispatchCounters: ...

    @property
    def generation(self) -> int: ...

    @property
    def parked_calls(self) -> int: ...

    @property
    def copied_bytes(self) -> int: ...

    @property
    def large_calls(self) -> Pieces: ...

    def deployed_models(self) -> tuple[DeployedModel, ...]: ...

    def open_calls(self) -> dict[str, int]: ...

    def called_models(self) -> list[ModelState]: ...

    def revisions(self) -> list[Revision]: ...

    def ready_counts(self) -> dict[str, int]: ...


class DispatchCollector(Collector):
    """Collects from the service; labels are deployed models and their revisions only."""

    def __init__(self, service: Measured) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        service = self._service
        yield from _totals(service.counters)
        yield _margins(service.counters)
        yield GaugeMetricFamily(
            "penstock_gateway_parked_calls",
            "Open calls that no replica can take now.",
            value=service.parked_calls,
        )
        yield CounterMetricFamily(
            "penstock_gateway_large_requests",
            "Requests of more rows than a batch, which go in pieces.",
            value=service.large_calls.begun,
        )
        yield CounterMetricFamily(
            "penstock_gateway_pieces",
            "Pieces of large requests that were sent, each a call to dispatch.",
            value=service.large_calls.pieces,
        )
        yield CounterMetricFamily(
            "penstock_gateway_message_copied_bytes",
            "Bytes of messages to and from replicas that the gateway copied.",
            value=service.copied_bytes,
        )
        yield GaugeMetricFamily(
            "penstock_gateway_routing_generation",
            "Generation of the routing table that calls go by.",
            value=service.generation,
        )
        yield labelled(
            GaugeMetricFamily,
            "penstock_gateway_ready_replicas",
            "Ready replicas that this gateway hears, those for jobs alone among them.",
            "revision",
            service.ready_counts().items(),
        )
        yield from self._of_models()
        yield from _of_revisions(service.revisions())

    def _of_models(self) -> Iterator[Metric]:
        """By model, 0 for those without any: an autoscaler needs to see that there are none."""
        called = self._service.called_models()
        names = [deployed.model for deployed in self._service.deployed_models()]
        open_calls = dict.fromkeys(names, 0) | self._service.open_calls()
        yield labelled(
            GaugeMetricFamily,
            "penstock_gateway_open_calls",
            "Calls that wait for their answer.",
            "model",
            open_calls.items(),
        )
        gauges: tuple[tuple[str, str, Callable[[ModelState], float]], ...] = (
            ("hedge_budget", "Hedges that could be sent now.", lambda model: model.hedges.left),
            (
                "retry_tokens",
                "Tokens of the retry throttle: at half of the most there are, extra attempts end.",
                lambda model: model.throttle.tokens,
            ),
            ("extra_attempts", "Retries and hedges in flight.", lambda model: model.throttle.extra),
        )
        for name, help_text, value_of in gauges:
            values = [(model.name, value_of(model)) for model in called]
            yield labelled(
                GaugeMetricFamily, f"penstock_gateway_{name}", help_text, "model", values
            )


def _totals(counters: DispatchCounters) -> Iterator[Metric]:
    attempts = {**counters.more_attempts, AttemptReason.FIRST: counters.first_attempts}
    yield _counter("attempts", "Attempts sent to replicas.", attempts.items())
    yield _counter(
        "nacks", "Attempts that a replica refused before it started them.", counters.nacks.items()
    )
    yield _counter(
        "cancels", "Calls and attempts that were not wanted any more.", counters.cancels.items()
    )
    yield _counter(
        "sheds", "Calls refused because there was too much to do.", counters.sheds.items()
    )
    yield _counter(
        "hedges", "Hedges that ended, by what they came to.", counters.hedges.items(), "result"
    )
    yield _counter(
        "hedges_denied", "Slow calls that got no hedge at once.", counters.denied.items()
    )
    for name, help_text, total in (
        ("lost", "Attempts that were lost with their replica.", counters.lost),
        ("late", "Answers that came after their attempt had ended.", counters.late),
        ("expired", "Calls whose deadline passed at the gateway.", counters.expired),
    ):
        yield CounterMetricFamily(f"penstock_dispatch_{name}", help_text, value=total)


def _counter(
    name: str, help_text: str, totals: Iterable[tuple[str, int]], label: str = "reason"
) -> Metric:
    return labelled(CounterMetricFamily, f"penstock_dispatch_{name}", help_text, label, totals)


def _of_revisions(revisions: list[Revision]) -> Iterator[Metric]:
    yield labelled(
        CounterMetricFamily,
        "penstock_gateway_ejections",
        "Replicas that were left out for a while, because they were worse than their peers.",
        "revision",
        [(revision.id, revision.ejection.ejections) for revision in revisions],
    )
    yield labelled(
        GaugeMetricFamily,
        "penstock_gateway_ejected_replicas",
        "Replicas that are left out now, or sent one call at a time.",
        "revision",
        [(revision.id, revision.ejection.ejected) for revision in revisions],
    )


def _margins(counters: DispatchCounters) -> Metric:
    bounds = [*(f"{bound:g}" for bound in margin_bounds_s()), "+Inf"]
    cumulative = accumulate(list(counters.margins))
    return HistogramMetricFamily(
        "penstock_gateway_deadline_margin_seconds",
        "What was left until their deadline when calls were answered.",
        buckets=list(zip(bounds, cumulative, strict=True)),
        sum_value=counters.margin_s,
    )
