"""What submits and queries of jobs may say, and how what they may not say is refused."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.shared.jobs import calls
from penstock.shared.jobs.payload import unpack_input
from penstock.shared.jobs.record import JobState
from tests.contract.job_bench import (
    GOOD,
    INFER,
    JOBS,
    Bench,
    double,
)
from tests.contract.job_holder import Holder
from tests.unit.gateway.http.fakes import x_input

# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "headers", "named"),
    [
        ({"priority": 10}, {}, "priority"),
        ({"timeout": -1}, {}, "timeout"),
        ({"timeout": 10**15}, {}, "timeout"),
        ({"ttl_seconds": 0}, {}, "ttl_seconds"),
        ({"ttl_seconds": "5"}, {}, "ttl_seconds"),
        ({"result_ttl_seconds": 10**9}, {}, "result_ttl_seconds"),
        ({"webhook": "ftp://example.com/"}, {}, "webhook"),
        ({"webhook": "http://127.0.0.1/"}, {}, "webhook"),
        ({"webhook": 5}, {}, "webhook"),
        ({"webhook_events": "succeeded"}, {}, "webhook_events"),
        ({"webhook": "https://example.com/", "webhook_events": "queued"}, {}, "webhook_events"),
        ({"ttl_seconds": 1}, {"x-penstock-ttl-seconds": "2"}, "ttl_seconds"),
        ({}, {"x-penstock-ttl-seconds": "nan"}, "x-penstock-ttl-seconds"),
        ({}, {"x-penstock-priority": "0.5"}, "x-penstock-priority"),
        ({}, {"x-request-timeout-seconds": "never"}, "x-request-timeout-seconds"),
        ({}, {"x-team": "x" * 300}, "x-team"),
    ],
)
async def test_a_bad_option_is_named(
    bench: Bench, parameters: dict[str, Any], headers: dict[str, str], named: str
) -> None:
    document: dict[str, Any] = {**GOOD, "parameters": parameters}
    answer = await bench.ask("POST", JOBS, json=document, headers=headers)
    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert (await bench.ask("GET", "/v2/jobs")).json()["jobs"] == []


async def test_bad_input_is_refused_as_by_an_inference(bench: Bench) -> None:
    documents: tuple[dict[str, Any], ...] = (
        {"inputs": [x_input(shape=[2, 4])]},
        {"inputs": []},
        {},
    )
    for document in documents:
        refused = await bench.ask("POST", JOBS, json=document)
        infer = await bench.ask("POST", INFER, json=document)
        assert (refused.status_code, refused.json()) == (infer.status_code, infer.json())
    for path in ("/v2/models/none/jobs", "/v2/models/double/versions/7/jobs"):
        assert (await bench.ask("POST", path, json=GOOD)).status_code == 404
    large = await bench.ask("POST", JOBS, content=b"x" * 4_000_001)
    assert (large.status_code, large.headers["connection"]) == (413, "close")


async def test_options_arrive_at_the_job(bench: Bench) -> None:
    parameters = {
        "priority": 2,
        "timeout": 3_000_000,
        "ttl_seconds": 60,
        "webhook": "https://example.com/hook",
        "webhook_events": "failed, succeeded",
        "zoom": 2,
    }
    headers = {"x-penstock-result-ttl-seconds": "90.5", "x-request-timeout-seconds": "9"}
    path = "/v2/models/double/versions/1/jobs"
    answer = await bench.ask("POST", path, json={**GOOD, "parameters": parameters}, headers=headers)
    assert answer.status_code == 202
    view = await bench.store.run(calls.get(answer.json()["id"]))
    assert view is not None
    job = view.record.job
    assert (job.version, job.revision, job.pin) == ("1", "1-revision", "1")
    assert (job.priority, job.timeout_ms, job.queue_ttl_ms) == (2, 3000, 60_000)
    assert (job.result_ttl_ms, job.webhook) == (90_500, "https://example.com/hook")
    assert job.webhook_events == (JobState.FAILED, JobState.SUCCEEDED)
    holder = Holder(bench.store, "double", "1-revision", double)
    leased = await holder.lease()
    assert leased.body is not None
    assert unpack_input(leased.body).request.parameters == (("zoom", 2),)


@pytest.mark.parametrize("query", ["wait=x", "wait=-1", "wait=nan", "limit=3"])
async def test_a_bad_query_of_a_job(bench: Bench, query: str) -> None:
    path = (await bench.submit()).headers["location"]
    answer = await bench.ask("GET", f"{path}?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]


@pytest.mark.parametrize(
    "query", ["state=asleep", "limit=0", "limit=9999", "limit=x", "cursor=x", "dead=1", "mode=x"]
)
async def test_a_bad_query_of_the_listing(bench: Bench, query: str) -> None:
    answer = await bench.ask("GET", f"/v2/jobs?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]


async def test_openapi_shows_the_routes(bench: Bench) -> None:
    paths = (await bench.ask("GET", "/openapi.json")).json()["paths"]
    job = "/v2/jobs/{job_id}"
    assert set(paths["/v2/models/{model}/jobs"]) == {"post"}
    assert set(paths["/v2/models/{model}/versions/{version}/jobs"]) == {"post"}
    assert set(paths[job]) == {"get", "delete"}
    for path in ("/v2/jobs", f"{job}/result", f"{job}/events", "/v2/webhooks/undelivered"):
        assert set(paths[path]) == {"get"}
    for action in ("cancel", "retry"):
        assert set(paths[f"{job}/{action}"]) == {"post"}
