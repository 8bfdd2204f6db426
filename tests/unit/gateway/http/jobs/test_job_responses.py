"""Answers that hold a share of the bytes of results hold it until they were sent, or were not."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import pytest
from fastapi import Response
from starlette.types import Message

from penstock.gateway.http.jobs.intake import JobResponse, ResultResponse
from penstock.gateway.http.reply import Reply
from penstock.gateway.jobs.clients.byte_budget import ByteBudget, ByteShare

BODY = b"so many bytes"


def a_job(share: ByteShare) -> Response:
    return JobResponse(BODY, HTTPStatus.OK, {"location": "/v2/jobs/x"}, share)


def a_result(share: ByteShare) -> Response:
    return ResultResponse(Reply(b"content-type: text/plain\r\n", (BODY[:3], BODY[3:])), share)


async def receive() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize("make", [a_job, a_result])
async def test_a_share_is_held_until_all_is_sent(make: Callable[[ByteShare], Response]) -> None:
    budget = ByteBudget(100, "full", 1.0)
    sent = bytearray()

    async def send(message: Message) -> None:
        assert budget.held_bytes == len(BODY)
        sent.extend(message.get("body", b""))

    await make(budget.take(len(BODY)))({"type": "http"}, receive, send)
    assert bytes(sent) == BODY
    assert budget.held_bytes == 0


@pytest.mark.parametrize("make", [a_job, a_result])
async def test_a_client_that_goes_holds_nothing(make: Callable[[ByteShare], Response]) -> None:
    budget = ByteBudget(100, "full", 1.0)

    async def send(message: Message) -> None:
        raise OSError("gone")

    response = make(budget.take(len(BODY)))
    with pytest.raises(OSError, match="gone"):
        await response({"type": "http"}, receive, send)
    assert budget.held_bytes == 0
