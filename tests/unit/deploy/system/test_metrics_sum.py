"""The sum of several processes' metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock.deploy.local.system.metrics_pages import EndedCounters, sum_metrics


def page_of_a_process(calls: int, queued: int, seconds: float) -> str:
    registry = CollectorRegistry()
    counter = Counter("penstock_calls", "Calls.", ["model"], registry=registry)
    counter.labels('di"gits').inc(calls)
    Gauge("penstock_queued", "Queued.", registry=registry).set(queued)
    histogram = Histogram("penstock_seconds", "Time.", buckets=(0.1, 1.0), registry=registry)
    histogram.observe(seconds)
    return generate_latest(registry).decode()


def samples(page: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("model", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counters_gauges_and_histograms_add_up() -> None:
    total = samples(sum_metrics([page_of_a_process(2, 3, 0.05), page_of_a_process(40, 5, 0.5)]))
    assert total["penstock_calls_total", 'di"gits'] == 42
    assert total["penstock_queued", ""] == 8
    assert total["penstock_seconds_bucket", "0.1"] == 1
    assert total["penstock_seconds_bucket", "1.0"] == 2
    assert total["penstock_seconds_count", ""] == 2
    assert abs(total["penstock_seconds_sum", ""] - 0.55) < 1e-9


def test_types_survive() -> None:
    page = sum_metrics([page_of_a_process(1, 1, 1.0)])
    assert "# TYPE penstock_calls_total counter" in page
    assert "# TYPE penstock_seconds histogram" in page
    assert "_created" not in page


def test_a_label_set_that_only_one_process_has_is_kept() -> None:
    one = 'a_total{model="x"} 1\n'
    other = 'a_total{model="y"} 2\n'
    header = "# TYPE a_total counter\n"
    assert samples(sum_metrics([header + one, header + other])) == {
        ("a_total", "x"): 1,
        ("a_total", "y"): 2,
    }


def test_pages_of_processes_that_went_are_left_out() -> None:
    page = page_of_a_process(1, 1, 1.0)
    assert sum_metrics([page, "", "<html>no metrics\x00{</html>"]) == sum_metrics([page])


def test_nothing_gives_an_empty_page() -> None:
    assert sum_metrics([]) == ""


def test_times_are_not_added() -> None:
    page = "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.7e9\n"
    assert sum_metrics([page, page]) == ""


def test_gauges_that_are_no_amounts_show_the_largest() -> None:
    def page(generation: int, ready: int, calls: int) -> str:
        registry = CollectorRegistry()
        Gauge("penstock_gateway_routing_generation", "G.", registry=registry).set(generation)
        replicas = Gauge("penstock_gateway_ready_replicas", "R.", ["revision"], registry=registry)
        replicas.labels("x").set(ready)
        Gauge("penstock_gateway_open_calls", "O.", registry=registry).set(calls)
        return generate_latest(registry).decode()

    total = samples(sum_metrics([page(7, 2, 5), page(9, 2, 6), page(8, 1, 7)]))
    assert total["penstock_gateway_routing_generation", ""] == 9
    assert total["penstock_gateway_ready_replicas", ""] == 2
    assert total["penstock_gateway_open_calls", ""] == 18


def calls_in(page: str) -> float:
    return samples(page)["penstock_calls_total", 'di"gits']


def test_the_sum_falls_for_no_process_that_ends_or_is_silent() -> None:
    ended = EndedCounters()
    both = {"g-1": page_of_a_process(40, 1, 0.1), "w-1": page_of_a_process(2, 5, 0.1)}
    assert calls_in(sum_metrics(ended.completed(both))) == 42
    for scraped in ({**both, "g-1": ""}, {"w-1": both["w-1"]}):  # silent, then gone
        page = sum_metrics(ended.completed(scraped))
        assert calls_in(page) == 42
        assert samples(page)["penstock_queued", ""] == 5  # a gauge goes with its process
        assert samples(page)["penstock_seconds_count", ""] == 2
    successor = {"w-1": both["w-1"], "g-2": page_of_a_process(1, 1, 0.1)}
    assert calls_in(sum_metrics(ended.completed(successor))) == 43


def test_a_process_that_comes_back_is_counted_once() -> None:
    ended = EndedCounters()
    ended.completed({"g-1": page_of_a_process(40, 1, 0.1)})
    assert calls_in(sum_metrics(ended.completed({}))) == 40
    page = sum_metrics(ended.completed({"g-1": page_of_a_process(41, 1, 0.1)}))
    assert calls_in(page) == 41


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12), ended_max=st.integers(0, 3))
def test_however_many_processes_ended_nothing_is_lost(counts: list[int], ended_max: int) -> None:
    ended = EndedCounters(ended_max)
    for number, count in enumerate(counts):
        page = sum_metrics(ended.completed({f"g-{number}": page_of_a_process(count, 1, 0.1)}))
        assert calls_in(page) == sum(counts[: number + 1])
    assert len(ended.completed({})) <= ended_max + 1


def test_what_all_processes_show_alike_goes_with_them() -> None:
    ended = EndedCounters()
    jobs = "# TYPE penstock_jobs_submitted counter\npenstock_jobs_submitted_total 7\n"
    ended.completed({"g-1": jobs})
    assert sum_metrics(ended.completed({})) == ""
