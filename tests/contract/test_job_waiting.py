"""Waiting for jobs over HTTP: long-polls, `Prefer: respond-async`, and streams of events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import httpx
import pytest

from penstock.gateway.jobs.clients.watching import STEP_BYTES
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.record import Content
from tests.contract.job_bench import (
    DOUBLED,
    GOOD,
    INFER,
    JOBS,
    SETTINGS,
    Bench,
    all_of,
    bench_at,
    events_of,
)
from tests.contract.job_holder import LEASE_MS
from tests.contract.redis_server import Server

# Waiting ------------------------------------------------------------------------------------------


async def test_a_long_poll_ends_with_the_job(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    waiting = asyncio.create_task(bench.ask("GET", f"{path}?wait=30"))
    await bench.holder.finish(await bench.holder.lease())
    answer = await waiting
    assert answer.json()["state"] == "succeeded"
    assert "retry-after" not in answer.headers
    again = await bench.ask("GET", f"{path}?wait=30")
    assert again.json() == answer.json()


async def test_a_long_poll_ends_after_its_time(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    answer = await bench.ask("GET", f"{path}?wait=0.05")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert answer.headers["retry-after"] == "1"


async def test_who_waits_is_let_go_when_the_gateway_leaves(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    waiting = asyncio.create_task(bench.ask("GET", f"{path}?wait=30"))
    stream = asyncio.create_task(all_of(events_of(bench, path)))
    while len(bench.jobs.watch) < 2:
        await asyncio.sleep(0.01)
    bench.jobs.begin_drain()
    assert (await waiting).json()["state"] == "queued"
    assert [event.kind for event in await stream] == ["job"]


async def test_those_who_wait_are_bounded(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_watchers_max": 1})
    async with bench_at(job_server.url, settings) as bench:
        path = (await bench.submit()).headers["location"]
        waiting = asyncio.create_task(bench.ask("GET", f"{path}?wait=30"))
        while len(bench.jobs.watch) < 1:
            await asyncio.sleep(0.01)
        for refused in (f"{path}?wait=1", f"{path}/events"):
            answer = await bench.ask("GET", refused)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert (await bench.ask("GET", path)).status_code == 200
        prefer = {"prefer": "respond-async, wait=30"}
        assert (await bench.ask("POST", INFER, json=GOOD, headers=prefer)).status_code == 202
        await bench.ask("POST", f"{path}/cancel")
        assert (await waiting).json()["state"] == "canceled"


async def test_a_client_that_leaves_waits_no_more(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    with pytest.raises(httpx.ReadTimeout):
        await bench.ask("GET", f"{path}?wait=30", timeout=0.2)
    async with aclosing(events_of(bench, path)) as events:  # type: ignore[type-var]
        await anext(events)
        assert len(bench.jobs.watch) <= 2
    while len(bench.jobs.watch):
        await asyncio.sleep(0.01)


# Prefer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["", ", wait=0"])
async def test_an_inference_may_become_a_job(bench: Bench, wait: str) -> None:
    answer = await bench.ask("POST", INFER, json=GOOD, headers={"prefer": f"respond-async{wait}"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "respond-async"
    document = answer.json()
    assert document.pop("durability") == "always"
    assert await bench.job(answer.headers["location"]) == document


async def test_a_job_that_is_done_in_time_answers_the_inference(bench: Bench) -> None:
    serving = asyncio.create_task(bench.holder.serve())
    document = {**GOOD, "id": "seven", "parameters": {"binary_data_output": True}}
    headers = {"prefer": "respond-async; foo, wait=30"}
    answer = await bench.ask("POST", INFER, json=document, headers=headers)
    plain = await bench.ask("POST", INFER, json=document)
    serving.cancel()
    assert (answer.status_code, answer.content) == (200, plain.content)
    assert answer.headers["preference-applied"] == "respond-async"
    assert (await bench.job(answer.headers["location"]))["state"] == "succeeded"
    assert bench.inference.submitted == 1  # the plain one, which took the short way


async def test_the_answer_tells_how_long_its_sender_waited(bench: Bench) -> None:
    async def finish_late() -> None:
        leased = await bench.holder.lease()
        await asyncio.sleep(0.3)
        await bench.holder.finish(leased)

    finishing = asyncio.create_task(finish_late())
    answer = await bench.ask("POST", INFER, json=GOOD, headers={"prefer": "respond-async, wait=30"})
    await finishing
    total = answer.headers["server-timing"].partition("total;dur=")[2]
    assert float(total) >= 300.0


async def test_a_preference_without_jobs_is_no_error(bench: Bench) -> None:
    bench.inference.jobs_policy = "off"
    answer = await bench.ask("POST", INFER, json=GOOD, headers={"prefer": "respond-async"})
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, DOUBLED)
    bench.inference.jobs_policy = "shared"
    answer = await bench.ask("POST", INFER, json=GOOD, headers={"prefer": "wait=3"})
    assert answer.status_code == 200
    refused = await bench.ask("POST", INFER, json=GOOD, headers={"prefer": "respond-async,wait=x"})
    assert refused.status_code == 400
    assert "wait" in refused.json()["error"]


async def test_what_a_version_is_for(bench: Bench) -> None:
    bench.inference.jobs_policy = "off"
    refused = await bench.ask("POST", JOBS, json=GOOD)
    assert refused.status_code == 409
    assert "takes no jobs" in refused.json()["error"]
    bench.inference.jobs_policy = "only"
    assert (await bench.submit()).status_code == 202
    for headers in ({}, {"x-request-id": "a"}):
        refused = await bench.ask("POST", INFER, json=GOOD, headers=headers)
        assert refused.status_code == 409
        assert "jobs only" in refused.json()["error"]
    prefer = {"prefer": "respond-async"}
    assert (await bench.ask("POST", INFER, json=GOOD, headers=prefer)).status_code == 202


# Events -------------------------------------------------------------------------------------------


async def test_events_from_queued_to_the_end_and_resumed(bench: Bench) -> None:
    path = (await bench.submit()).headers["location"]
    events = events_of(bench, path)
    first = await anext(events)
    assert (first.kind, first.id, first.data["state"]) == ("job", "", "queued")
    leased = await bench.holder.lease()
    assert (await anext(events)).data["state"] == "running"
    found = leased.record
    text = b"a line"
    output = Content("text/plain", len(text))
    beat = calls.heartbeat(
        found.id, found.token, 1, LEASE_MS, Progress(0.25, "a quarter"), [(output, text)]
    )
    await bench.store.run(beat)
    told = {event.kind: event for event in [await anext(events), await anext(events)]}
    assert told["progress"].data["fraction"] == 0.25
    assert told["output"].data["text"] == "a line"

    document = await bench.job(path)
    assert document["partial"] == {"media_type": "text/plain", "size_bytes": 6, "text": "a line"}
    progress = document["progress"]
    assert (progress["fraction"], progress["message"]) == (0.25, "a quarter")
    assert progress["eta_seconds"] >= 0

    await bench.holder.finish(leased)
    end = await anext(events)
    assert end.data["state"] == "succeeded"
    assert await all_of(events) == []

    whole = await all_of(events_of(bench, path))
    assert [event.kind for event in whole].count("state") == 2
    ids = [event.id for event in whole[1:]]
    for at, event_id in enumerate(ids[:-1]):
        rest = await all_of(events_of(bench, path, event_id))
        assert [event.id for event in rest[1:]] == ids[at + 1 :]
    done = await bench.ask("GET", f"{path}/events", headers={"last-event-id": ids[-1]})
    assert (done.status_code, done.content) == (204, b"")
    bad = await bench.ask("GET", f"{path}/events", headers={"last-event-id": "x"})
    assert bad.status_code == 400
    assert (await bench.ask("HEAD", f"{path}/events")).status_code == 200


async def test_outputs_share_the_room_of_results(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_result_bytes_max": STEP_BYTES})
    async with bench_at(job_server.url, settings) as bench:
        path = (await bench.submit()).headers["location"]
        found = (await bench.holder.lease()).record
        output = [(Content("text/plain", 6), b"a line")]
        lease = (found.id, found.token, 1, LEASE_MS)
        await bench.store.run(calls.heartbeat(*lease, Progress(0.25), output))
        others = bench.jobs.watch.outputs.take(STEP_BYTES)
        document = await bench.job(path)
        assert document["partial"] == {"media_type": "text/plain", "size_bytes": 6}
        stream = events_of(bench, path)
        assert (await anext(stream)).kind == "job"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        others.release()
        assert (await waiting).data["state"] == "running"
        assert (await bench.job(path))["partial"]["text"] == "a line"
        assert (await anext(stream)).kind in ("output", "progress")
        await stream.aclose()  # type: ignore[attr-defined]
        while bench.jobs.watch.outputs.held_bytes:
            await asyncio.sleep(0.02)


async def test_waiting_and_events_go_on_at_another_gateway(job_server: Server) -> None:
    async with bench_at(job_server.url) as first, bench_at(job_server.url) as second:
        path = (await first.submit()).headers["location"]
        events = events_of(first, path)
        await anext(events)
        waiting = asyncio.create_task(first.ask("GET", f"{path}?wait=30"))
        leased = await second.holder.lease()
        seen = await anext(events)
        assert seen.data["state"] == "running"
        while len(first.jobs.watch) < 2:
            await asyncio.sleep(0.01)
        first.jobs.begin_drain()
        assert await all_of(events) == []
        assert (await waiting).json()["state"] == "running"

        waiting = asyncio.create_task(second.ask("GET", f"{path}?wait=30"))
        resumed = asyncio.create_task(all_of(events_of(second, path, seen.id)))
        await second.holder.finish(leased)
        assert (await waiting).json()["state"] == "succeeded"
        states = [event.data["state"] for event in await resumed]
        assert states[-1] == "succeeded"
        assert len(states) == 2  # the job as it was, and its end
