"""A client of jobs for end-to-end tests: submits, waits, and follows events over restarts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from penstock.shared.jobs.record import FINISHED

ANSWER_TIMEOUT_S = 30.0
WAIT_S = 20
FINISH_TIMEOUT_S = 60.0


def numbers(*values: float) -> dict[str, Any]:
    """A request to a model of `tests.support.mlflow_models`: one number in each row."""
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [len(values)], "data": list(values)}
    return {"inputs": [tensor]}


class JobClient:
    """Asks a gateway."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=ANSWER_TIMEOUT_S)

    def submit(self, model: str, value: float, version: str = "", **options: Any) -> str:
        """Submit a number; returns the job's path."""
        pinned = f"/versions/{version}" if version else ""
        path = f"/v2/models/{model}{pinned}/jobs"
        answer = self.http.post(path, json={**numbers(value), "parameters": options})
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    def job(self, path: str, wait_s: float = 0) -> dict[str, Any]:
        """The job's document."""
        answer = self.http.get(path, params={"wait": str(wait_s)})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def finished(self, path: str) -> dict[str, Any]:
        """The job's document, once it has finished."""
        for _ in range(round(FINISH_TIMEOUT_S / WAIT_S)):
            document = self.job(path, WAIT_S)
            if document["state"] in FINISHED:
                return document
        raise AssertionError(f"it does not finish: {document}")

    def result(self, path: str) -> dict[str, Any]:
        """The job's result in JSON."""
        answer = self.http.get(f"{path}/result")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def cancel(self, path: str) -> tuple[int, str]:
        """Cancel a job; status and the job's state."""
        answer = self.http.post(f"{path}/cancel")
        return answer.status_code, answer.json()["state"]


@dataclass
class Following:
    """A stream of events, resumed by `Last-Event-ID` whenever it ends, until the job is finished.

    Attributes:
        seen: (id, kind, data) of all events that have an id.
        streams: connections it took.
    """

    url: str
    path: str
    seen: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    streams: int = 0

    @property
    def states(self) -> list[str]:
        """States in the order in which they were told."""
        return [data["state"] for _, kind, data in self.seen if kind == "state"]

    def run(self) -> None:
        """Follow to the end."""
        with httpx.Client(base_url=self.url, timeout=ANSWER_TIMEOUT_S) as http:
            while not (self.states and self.states[-1] in FINISHED):
                self.streams += 1
                self._follow(http)

    def _follow(self, http: httpx.Client) -> None:
        headers = {"last-event-id": self.seen[-1][0]} if self.seen else {}
        with http.stream("GET", f"{self.path}/events", headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                    continue
                if "id" in fields:
                    self.seen.append((fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}


@dataclass
class Polling:
    """Long-polls of a job, one after the other, until it is finished.

    Attributes:
        states: as they were answered.
    """

    url: str
    path: str
    states: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Poll to the end."""
        client = JobClient(self.url)
        while not (self.states and self.states[-1] in FINISHED):
            self.states.append(client.job(self.path, WAIT_S)["state"])
