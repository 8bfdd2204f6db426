"""What pages in browsers get of a gateway: preflights, marks on answers, refusals in each shape."""

from __future__ import annotations

import httpx
import orjson
import pytest

from penstock.gateway.clients.origin_policy import OriginPolicy, origin_policy
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from tests.unit.gateway.http.fakes import FakeInference, app_of, client_of, x_input

APP = "https://app.example"
LISTED = origin_policy("", APP, loopback=False)
INFER = "/v2/models/double/infer"
BODY = orjson.dumps({"inputs": [x_input()]})
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-request-id",
}


def client(policy: OriginPolicy = LISTED) -> httpx.AsyncClient:
    return client_of(app_of(FakeInference(), HttpSettings(origins=policy)))


async def test_a_preflight_of_a_listed_page_is_permitted() -> None:
    async with client() as web:
        answer = await web.options(INFER, headers={"origin": APP, **PREFLIGHT})
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
    assert answer.headers["access-control-allow-headers"] == "content-type,x-request-id"
    assert answer.headers["vary"] == "origin"
    assert int(answer.headers["access-control-max-age"]) > 0


async def test_a_preflight_of_any_other_page_is_refused_without_a_mark() -> None:
    async with client() as web:
        for origin in ("https://evil.example", "null", "https://app.example.evil.example"):
            answer = await web.options(INFER, headers={"origin": origin, **PREFLIGHT})
            assert answer.status_code == 403
            assert "--cors-origins" in answer.json()["error"]
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_listed_page_may_read_answers_and_errors(method: str) -> None:
    async with client() as web:
        for path in (INFER if method == "POST" else "/v2", "/v2/models/nothing/infer", "/nowhere"):
            answer = await web.request(method, path, content=BODY, headers={"origin": APP})
            assert answer.headers["access-control-allow-origin"] == APP
            assert "origin" in answer.headers["vary"]
            assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_other_pages_get_no_mark_and_compute_nothing() -> None:
    service = FakeInference()
    foreign = {"origin": "https://evil.example"}
    async with client_of(app_of(service, HttpSettings(origins=LISTED))) as web:
        read = await web.get("/v2", headers=foreign)
        ran = await web.post(INFER, content=BODY, headers=foreign)
    assert "access-control-allow-origin" not in read.headers
    assert ran.status_code == 403
    assert "https://evil.example" in ran.json()["error"]
    assert service.calls == []


async def test_where_any_page_may_no_page_is_named() -> None:
    async with client(origin_policy("", "*", loopback=True)) as web:
        asked = await web.options(INFER, headers={"origin": "null", **PREFLIGHT})
        ran = await web.post(INFER, content=BODY, headers={"origin": "null", "host": "localhost"})
    assert asked.status_code == 421  # `gateway` is no loopback name
    assert ran.status_code == 200
    assert ran.headers["access-control-allow-origin"] == "*"


async def test_refusals_on_mlflows_paths_are_in_mlflows_words() -> None:
    async with client() as web:
        path = "/v2/models/double/invocations"
        answer = await web.post(path, content=b"{}", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"


async def test_a_rebound_name_reads_nothing() -> None:
    async with client(origin_policy("", "", loopback=True)) as web:
        for path in ("/", "/v2", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nowhere"):
            answer = await web.get(path, headers={"host": "evil.example:8080"})
            assert answer.status_code == 421
            assert "--allowed-hosts" in answer.json()["error"]
            own = await web.get(path, headers={"host": "127.0.0.1:8080"})
            assert own.status_code == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize(
    "path", [INFER, "/v2/models/double/invocations", "/v1/models/double:predict"]
)
async def test_what_a_form_or_a_text_holds_is_no_json_of_a_page(path: str) -> None:
    async with client() as web:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
            headers = {"origin": APP, "content-type": kind}
            answer = await web.post(path, content=BODY, headers=headers)
            assert answer.status_code == 415


async def test_allow_names_every_method_that_there_is_at_a_path() -> None:
    url = "redis://127.0.0.1:1"  # nothing is there, and nothing gets as far as that
    jobs = JobService(JobStore(url, Keys("t")), JobNews(url, Keys("t")), JobSettings(), None, ())
    async with client_of(app_of(FakeInference(), jobs=jobs)) as web:
        answer = await web.put("/v2/jobs/0123")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")


async def test_a_page_elsewhere_makes_no_job_by_any_form() -> None:
    url = "redis://127.0.0.1:1"
    jobs = JobService(JobStore(url, Keys("t")), JobNews(url, Keys("t")), JobSettings(), None, ())
    async with client_of(app_of(FakeInference(), jobs=jobs)) as web:
        for path in ("/v2/models/double/jobs", "/v2/jobs/0123/cancel", "/v2/jobs/0123/retry"):
            for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
                headers = {"origin": "https://evil.example", "content-type": kind}
                assert (await web.post(path, content=BODY, headers=headers)).status_code == 403
        gone = await web.delete("/v2/jobs/0123", headers={"origin": "null"})
        assert gone.status_code == 403
