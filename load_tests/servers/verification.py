"""Whether a server answers rightly, compared with ONNX Runtime directly."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from load_tests.models.reference import Reference
from load_tests.server import Encoding, HttpRequest, Rows, Running, ServerError

TOGETHER = 16
"""Requests at a time, so that answers of one batch that are mixed up are seen."""

ROUNDS = 4
ANSWER_TIMEOUT_S = 60.0


def post(port: int, request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
    """Send one request: status, headers with names in lower case, body.

    Raises:
        OSError, http.client.HTTPException: if there is no answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def verify(
    running: Running, encoding: Encoding, samples: Sequence[Rows], reference: Reference
) -> int:
    """Send all samples, several at a time and several times; returns how many answers were right.

    Raises:
        ServerError: at the first answer that is missing or wrong.
    """

    def check(index: int, headers: Mapping[str, str], body: bytes) -> None:
        reference.check(samples[index], running.answer(encoding, headers, body))

    requests = [running.request(encoding, rows) for rows in samples]
    return verify_requests(running.port, requests, check)


def verify_requests(
    port: int,
    requests: Sequence[HttpRequest],
    check: Callable[[int, Mapping[str, str], bytes], None],
) -> int:
    """The same with requests as they are.

    Args:
        check: gets the number of a request, and the headers and body of its answer; raises
            ServerError if that is wrong.
    """

    def ask(index: int) -> None:
        try:
            status, headers, body = post(port, requests[index])
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"no answer: {error!r}") from error
        if status != 200:
            raise ServerError(f"status {status}: {body[:300]!r}")
        check(index, headers, body)

    with ThreadPoolExecutor(TOGETHER) as pool:
        return sum(1 for _ in pool.map(ask, list(range(len(requests))) * ROUNDS))
