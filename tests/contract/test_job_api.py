"""Jobs over HTTP, with a real store: what they come to, keys, listings, bounds, outages."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest
from redis import Redis

from penstock.shared.jobs import calls
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.payload import RESULT_TYPE, VERSION, JobResult, pack_result, unpack_input
from penstock.shared.jobs.record import Content, NewJob
from penstock.shared.wire.messages import Final
from penstock.shared.wire.tensors import Buffer
from tests.contract.job_bench import (
    DOUBLED,
    GOOD,
    INFER,
    JOBS,
    SETTINGS,
    Bench,
    MemoryBlobs,
    all_of,
    bench_at,
    events_of,
)
from tests.contract.job_holder import Holder
from tests.contract.redis_server import Server
from tests.unit.gateway.http.fakes import x_input


async def test_submit_look_and_fetch(bench: Bench) -> None:
    submitted = await bench.submit({**GOOD, "id": "seven"})
    assert submitted.status_code == 202
    assert submitted.headers["retry-after"] == "1"
    path = submitted.headers["location"]
    document = submitted.json()
    assert path == f"/v2/jobs/{document['id']}"
    assert document == {**await bench.job(path), "durability": "always"}
    assert (document["state"], document["place"]) == ("queued", 0)
    assert (document["model"], document["version"], document["pinned"]) == ("double", "2", False)

    early = await bench.ask("GET", f"{path}/result")
    assert (early.status_code, list(early.json())) == (409, ["error"])

    await bench.holder.finish(await bench.holder.lease())
    done = await bench.job(path)
    assert (done["state"], done["attempts"], done["place"]) == ("succeeded", 1, None)
    assert done["finished_at"] < done["result_expires_at"]
    result = await bench.ask("GET", f"{path}/result")
    infer = await bench.ask("POST", INFER, json={**GOOD, "id": "seven"})
    assert result.json() == infer.json()
    assert result.headers["content-type"] == infer.headers["content-type"]
    assert result.headers["server-timing"].startswith("queue;dur=1.000, infer;dur=2.000")
    assert result.headers["x-penstock-attempts"] == "1"


async def test_the_result_in_binary(bench: Bench) -> None:
    raw = np.array([[1, 2, 3, 4.5]], "<f4").tobytes()
    entry = x_input(parameters={"binary_data_size": 16})
    del entry["data"]
    text = orjson.dumps({"inputs": [entry]})
    headers = {"inference-header-content-length": str(len(text))}
    submitted = await bench.ask("POST", JOBS, content=text + raw, headers=headers)
    await bench.holder.finish(await bench.holder.lease())
    path = submitted.headers["location"]
    accept = {"accept": "application/octet-stream"}
    result = await bench.ask("GET", f"{path}/result", headers=accept)
    assert result.headers["content-type"] == "application/octet-stream"
    length = int(result.headers["inference-header-content-length"])
    assert result.content[length:] == np.array([DOUBLED], "<f4").tobytes()


# Ends ---------------------------------------------------------------------------------------------


async def test_a_failed_job_answers_as_an_inference(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    await bench.holder.fail(await bench.holder.lease(), "model_error", "it broke", "KeyError: 'x'")
    document = await bench.job(path)
    assert document["error"] == {"code": "model_error", "message": "it broke"}
    for answer in (await bench.ask("GET", path), await bench.ask("GET", "/v2/jobs")):
        assert b"KeyError" not in answer.content
    result = await bench.ask("GET", f"{path}/result")
    assert (result.status_code, result.json()) == (500, {"error": "it broke"})

    retried = await bench.ask("POST", f"{path}/retry")
    assert (retried.status_code, retried.json()["state"]) == (202, "queued")
    assert retried.headers["location"] == path
    assert (await bench.ask("POST", f"{path}/retry")).status_code == 409
    await bench.holder.finish(await bench.holder.lease())
    assert (await bench.ask("GET", f"{path}/result")).status_code == 200


async def test_a_canceled_and_an_expired_job_are_retried(bench: Bench) -> None:
    ttl = {**GOOD, "parameters": {"ttl_seconds": 0.001}}
    for document, ended in ((GOOD, "canceled"), (ttl, "expired")):
        path = (await bench.submit(document)).headers["location"]
        if ended == "canceled":
            await bench.ask("POST", f"{path}/cancel")
        while (await bench.job(path))["state"] != ended:
            await bench.store.run(calls.expire())
        retried = await bench.ask("POST", f"{path}/retry")
        assert (retried.status_code, retried.json()["state"]) == (202, "queued")
        if ended == "canceled":
            await bench.holder.finish(await bench.holder.lease())
            assert (await bench.ask("GET", f"{path}/result")).status_code == 200
            again = await bench.ask("POST", f"{path}/retry")
            assert (again.status_code, "is succeeded" in again.json()["error"]) == (409, True)


async def test_a_job_whose_input_is_gone_is_not_retried_and_says_so(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    job_id = path.rpartition("/")[2]
    await bench.ask("POST", f"{path}/cancel")
    room = calls.StoreLimits(bytes_max=900)
    body = b"x" * 900  # needs the room of that input
    new = NewJob(id=new_job_id(), model="double", version="2", revision="2-revision")
    await bench.store.run(calls.submit(new, Content(RESULT_TYPE, 900), body, limits=room))
    refused = await bench.ask("POST", f"{path}/retry")
    assert refused.status_code == 410
    assert f"job {job_id} is canceled and its input is not kept" in refused.json()["error"]


async def test_a_result_that_another_release_wrote_is_an_error_in_words(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    leased = await bench.holder.lease()
    _, *rest = msgpack.unpackb(pack_result(JobResult("", Final(1))))
    body = msgpack.packb([VERSION + 1, *rest])
    content = Content(RESULT_TYPE, len(body))
    await bench.store.run(calls.commit(leased.record.id, leased.record.token, content, body))
    answer = await bench.ask("GET", f"{path}/result")
    assert answer.status_code == 500
    assert f"version {VERSION + 1}, expected {VERSION}" in answer.json()["error"]


async def test_cancel_in_every_state(bench: Bench) -> None:
    queued, running, done = [(await bench.submit()).headers["location"] for _ in range(3)]
    leased = await bench.holder.lease()
    assert leased.record.id in queued
    queued, running = running, queued
    answer = await bench.ask("POST", f"{running}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "canceling")
    for _ in range(2):
        answer = await bench.ask("POST", f"{queued}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "canceled")
    await bench.holder.finish(leased)
    assert (await bench.job(running))["state"] == "canceled"
    await bench.holder.finish(await bench.holder.lease())
    answer = await bench.ask("POST", f"{done}/cancel")
    assert (answer.status_code, (await bench.job(done))["state"]) == (409, "succeeded")
    for path in (queued, running):
        gone = await bench.ask("GET", f"{path}/result")
        assert gone.status_code == 410
        assert "canceled" in gone.json()["error"]


async def test_delete(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    assert (await bench.ask("DELETE", path)).status_code == 409
    await bench.ask("POST", f"{path}/cancel")
    assert (await bench.ask("DELETE", path)).status_code == 204
    assert (await bench.ask("DELETE", path)).status_code == 404
    assert (await bench.ask("GET", path)).status_code == 404
    assert (await bench.ask("GET", f"{path}/result")).status_code == 410


async def test_after_its_time_a_result_is_gone(bench: Bench) -> None:
    path = (await bench.submit(headers={"x-penstock-result-ttl-seconds": "1"})).headers["location"]
    await bench.holder.finish(await bench.holder.lease())
    bench.store.scripts.clock_offset_ms = 5_000
    await bench.store.run(calls.collect())
    assert (await bench.ask("GET", path)).status_code == 404
    assert (await bench.ask("GET", f"{path}/result")).status_code == 410


async def test_a_job_expires_in_the_queue(bench: Bench) -> None:
    document = {**GOOD, "parameters": {"ttl_seconds": 2}}
    path = (await bench.submit(document)).headers["location"]
    assert (await bench.job(path))["expires_at"] > (await bench.job(path))["created_at"]
    bench.store.scripts.clock_offset_ms = 5_000
    await bench.store.run(calls.expire())
    assert (await bench.job(path))["state"] == "expired"
    gone = await bench.ask("GET", f"{path}/result")
    assert (gone.status_code, "expired" in gone.json()["error"]) == (410, True)


@pytest.mark.parametrize("job_id", ["nothing", "f" * 32, "0" * 31, "../x", "%00"])
async def test_an_unknown_job(bench: Bench, job_id: str) -> None:
    path = f"/v2/jobs/{job_id}"
    asked = [("GET", path), ("GET", f"{path}/events"), ("GET", f"{path}/result"), ("DELETE", path)]
    asked += [("POST", f"{path}/cancel"), ("POST", f"{path}/retry")]
    for method, each in asked:
        answer = await bench.ask(method, each)
        assert (answer.status_code, list(answer.json())) == (404, ["error"]), each


# Idempotency --------------------------------------------------------------------------------------


async def test_the_same_key_and_input_is_the_same_job(bench: Bench) -> None:
    key = {"idempotency-key": "order 66"}
    first = await bench.submit({**GOOD, "id": "one"}, headers=key)
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    again = await bench.submit({**GOOD, "id": "two"}, headers={**key, **trace})
    assert again.json() == first.json()
    other = {"inputs": [x_input(data=[0, 0, 0, 0])]}
    for options in (
        {"json": other},
        {"json": {**GOOD, "parameters": {"zoom": 2}}},
        {"json": {**GOOD, "outputs": [{"name": "y"}]}},
    ):
        refused = await bench.ask("POST", JOBS, headers=key, **options)
        assert refused.status_code == 422
        assert "idempotency key" in refused.json()["error"]
    elsewhere = await bench.submit(other, headers={**key, "x-team": "blue"})
    assert elsewhere.json()["id"] != first.json()["id"]

    await bench.holder.finish(await bench.holder.lease())
    done = await bench.submit(headers=key)
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    bad = await bench.ask("POST", JOBS, json=GOOD, headers={"idempotency-key": "x" * 300})
    assert (bad.status_code, "idempotency-key" in bad.json()["error"]) == (400, True)


async def test_a_key_outlives_its_job(bench: Bench) -> None:
    key = {"idempotency-key": "order 67"}
    path = (await bench.submit(headers=key)).headers["location"]
    await bench.ask("POST", f"{path}/cancel")
    assert (await bench.ask("DELETE", path)).status_code == 204
    for url in (JOBS, INFER):
        headers = {**key, "prefer": "respond-async"}
        gone = await bench.ask("POST", url, json=GOOD, headers=headers)
        assert gone.status_code == 410
        assert "another key" in gone.json()["error"]


# Listing ------------------------------------------------------------------------------------------


async def test_pages_newest_first(bench: Bench) -> None:
    ids = [(await bench.submit()).json()["id"] for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        query = {"limit": "2", "model": "double", **({"cursor": cursor} if cursor else {})}
        page = (await bench.ask("GET", "/v2/jobs", params=query)).json()
        found += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == ids[::-1]
    await bench.ask("POST", f"/v2/jobs/{ids[0]}/cancel")
    canceled = (await bench.ask("GET", "/v2/jobs?state=canceled")).json()["jobs"]
    assert [job["id"] for job in canceled] == [ids[0]]
    assert (await bench.ask("GET", "/v2/jobs?dead=true")).json()["jobs"] == []


async def test_dead_letters_are_listed(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    for _ in range(2):  # the second time, it runs alone
        await bench.holder.lease()
        await bench.store.run(calls.lose("holder"))
    (dead,) = (await bench.ask("GET", "/v2/jobs?dead=true")).json()["jobs"]
    assert (dead["id"], dead["dead"], dead["state"]) == (path.rpartition("/")[2], True, "failed")
    assert (await bench.ask("POST", f"{path}/retry")).status_code == 202


async def test_webhooks_that_were_given_up_are_listed_newest_first(bench: Bench) -> None:
    listed = "/v2/webhooks/undelivered"
    asked = {"parameters": {"webhook": "https://example.com/"}}
    ids = []
    for _ in range(3):
        path = (await bench.submit({**GOOD, **asked})).headers["location"]
        await bench.ask("POST", f"{path}/cancel")
        for due in await bench.store.run(calls.webhooks_due(hold_ms=60_000)):
            await bench.store.run(calls.webhook_told(due, 9, gave_up="answered 404"))
        ids.append(path.rpartition("/")[2])
    first = (await bench.ask("GET", f"{listed}?limit=2")).json()
    assert [each["job"] for each in first["webhooks"]] == ids[:0:-1]
    told = first["webhooks"][0]
    assert (told["model"], told["state"], told["attempts"]) == ("double", "canceled", 9)
    assert (told["reason"], told["given_up_at"][-1]) == ("answered 404", "Z")
    rest = (await bench.ask("GET", f"{listed}?cursor={first['next_cursor']}")).json()
    assert ids[0] in [each["job"] for each in rest["webhooks"]]
    assert rest["next_cursor"] is None
    for bad in ("limit=0", "cursor=x", "state=failed"):
        answer = await bench.ask("GET", f"{listed}?{bad}")
        assert answer.status_code == 400
        assert bad.partition("=")[0] in answer.json()["error"]


# Bounds -------------------------------------------------------------------------------------------

LARGE: dict[str, Any] = {
    "inputs": [
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a" * 300_000]},
        {"name": "n", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
}


async def test_a_large_input_needs_blobs(job_server: Server) -> None:
    path = "/v2/models/texts/jobs"
    async with bench_at(job_server.url) as bench:
        refused = await bench.ask("POST", path, json=LARGE)
        assert refused.status_code == 413
        assert "blobs_url" in refused.json()["error"]
    blobs = MemoryBlobs()
    key = {"idempotency-key": new_job_id()}
    async with bench_at(job_server.url, blobs=blobs) as bench:
        first = await bench.ask("POST", path, json=LARGE, headers=key)
        assert first.status_code == 202, first.text
        again = await bench.ask("POST", path, json=LARGE, headers=key)
        assert again.json() == first.json()
        (name,) = blobs.kept  # the second one's is gone again
        holder = Holder(bench.store, "texts", "2-revision", lambda each: each.request.inputs)
        leased = await holder.lease()
        assert leased.record.payload is not None
        assert leased.record.payload.blob == name
        result_blob = blobs.put(leased.record.id, _result_of(blobs.kept[name]))
        content = Content(RESULT_TYPE, len(blobs.kept[result_blob]), result_blob)
        found = leased.record
        await bench.store.run(calls.commit(found.id, found.token, content, b""))
        result = await bench.ask("GET", f"{first.headers['location']}/result")
        assert result.json()["outputs"][0]["data"] == ["a" * 300_000]


def _result_of(payload: bytes) -> Buffer:
    job_input = unpack_input(payload)
    return pack_result(JobResult(job_input.client_id, Final(0, job_input.request.inputs)))


async def test_a_full_store_takes_no_more(job_server: Server) -> None:
    with Redis.from_url(job_server.url) as redis:
        redis.flushall()
    settings = SETTINGS.model_copy(update={"jobs_max": 1})
    async with bench_at(job_server.url, settings) as bench:
        await bench.submit()
        refused = await bench.ask("POST", JOBS, json=GOOD)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await bench.ask("POST", INFER, json=GOOD)).status_code == 200


async def test_without_its_store_only_jobs_fail_and_they_come_back() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), appendfsync="always")
        server.start()
        async with bench_at(server.url) as bench:
            path = (await bench.submit()).headers["location"]
            stream = asyncio.create_task(all_of(events_of(bench, path)))
            while not len(bench.jobs.watch):
                await asyncio.sleep(0.01)
            server.kill()
            asked = [("POST", JOBS), ("GET", path), ("GET", f"{path}/result"), ("GET", "/v2/jobs")]
            asked.append(("GET", "/v2/webhooks/undelivered"))
            for method, each in asked:
                options = {"json": GOOD} if method == "POST" else {}
                refused = await bench.ask(method, each, **options)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert folder not in refused.text  # addresses are nobody's business
            assert (await bench.ask("POST", INFER, json=GOOD)).status_code == 200
            assert (await bench.ask("GET", "/v2/health/ready")).status_code == 200
            server.start()
            assert (await bench.job(path))["state"] == "queued"
            await bench.holder.finish(await bench.holder.lease())
            states = [event.data["state"] for event in await stream if event.kind == "state"]
            assert states == ["running", "succeeded"]
        server.kill()


async def test_a_store_that_stalls_is_waited_for_within_bounds(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_store_timeout_s": 0.3})
    async with bench_at(job_server.url, settings) as bench:
        path = (await bench.submit()).headers["location"]
        with Redis.from_url(job_server.url) as redis:
            redis.execute_command("CLIENT", "PAUSE", 2000)
            refused = await bench.ask("GET", path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_bytes_of_submits_under_way_are_bounded(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_submit_bytes_max": 1})
    async with bench_at(job_server.url, settings) as bench:
        assert (await bench.submit()).status_code == 202  # one at a time, whatever its size
        answers = await asyncio.gather(*(bench.ask("POST", JOBS, json=GOOD) for _ in range(20)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {202, 429}
        assert (await bench.submit()).status_code == 202
