"""`schemathesis` over the routes of jobs, with a real store: nothing of ours breaks.

Bounded by examples, not by time, so that a failure comes again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck

from penstock.gateway.http.app import GatewayApp
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from tests.contract.redis_server import Server
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import FakeInference, app_of, serving, x_input

SETTINGS = JobSettings(jobs_wait_s_max=0.01, jobs_stream_s_max=0.1, jobs_keepalive_s=0.05)


KEYS = Keys("test")


def app_at(url: str) -> GatewayApp:
    jobs = JobService(JobStore(url, KEYS), JobNews(url, KEYS), SETTINGS, None, ())
    return app_of(FakeInference(), HttpSettings(), jobs=jobs)


CONFIG = schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
"""Without its thousand ways to leave out a header."""

SCHEMA = schemathesis.openapi.from_dict(app_at("unix:///nowhere").openapi(), config=CONFIG).include(
    path_regex="jobs|webhooks"
)


@pytest.fixture(scope="module")
def client(job_server: Server) -> Iterator[httpx.Client]:
    """Of the application, which is served."""
    with (
        serving(app_at(job_server.url)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as made,
    ):
        yield made


@SCHEMA.parametrize()
@examples(
    15,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_made_up_breaks_jobs(case: schemathesis.Case[Any], client: httpx.Client) -> None:
    good = {"inputs": [x_input()]}
    made = client.post("/v2/models/double/jobs", json=good).json()["id"]
    for name, value in (("model", "double"), ("job_id", made)):
        if name in case.path_parameters and len(str(case.body)) % 4:
            case.path_parameters[name] = value  # invented ones find nothing
    answer = case.call(base_url=str(client.base_url))
    assert answer.status_code < 500, (case.path, answer.status_code, answer.content[:500])
    if answer.status_code >= 400 and "json" in str(answer.headers.get("content-type")):
        assert set(answer.json()) == {"error"}
