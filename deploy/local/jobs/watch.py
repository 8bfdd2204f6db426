"""Watching a job until it has finished: a bar on a terminal, a line for each change elsewhere.

The stream of events is followed from the last one that was seen, over restarts of the gateway. What
counts in the end is the job's document.
"""

from __future__ import annotations

import time
from typing import Protocol

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from penstock.deploy.local.jobs.document import JobDocument, JobProgress, read_job
from penstock.deploy.local.jobs.gateway_client import GatewayAwayError, GatewayClient, patiently
from penstock.deploy.local.jobs.server_events import ServerEvent
from penstock.shared.jobs.record import JobState

RESUME_S = 0.2
"""Between two streams, should they end at once."""


class Display(Protocol):
    """Where a watched job is shown."""

    def show(self, doing: str, fraction: float | None) -> None:
        """Where it stands, and how much of it is done, if that is known."""
        ...


class Bar:
    """A bar that moves; used as a context."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, doing: str, fraction: float | None) -> None:
        """As `Display.show`."""
        total = None if fraction is None else 1.0
        self._progress.update(self._task, description=doing, total=total, completed=fraction or 0.0)


class Lines:
    """A line whenever the words change, or another tenth is done; used as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ("", -1)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, doing: str, fraction: float | None) -> None:
        """As `Display.show`."""
        tenths = -1 if fraction is None else int(fraction * 10)
        if (doing, tenths) == self._last:
            return
        self._last = (doing, tenths)
        share = "" if fraction is None else f" {fraction:.0%}"
        self._console.print(f"{doing}{share}", soft_wrap=True)


def watch(client: GatewayClient, job_id: str, console: Console) -> JobDocument:
    """Show a job until it has finished, and return what it came to.

    Raises:
        CommandError: if there is no such job, or the gateway stays away.
    """
    with (Bar if console.is_terminal else Lines)(console) as display:
        follower = _Follower(client, job_id, display)
        while not (job := follower.look()).finished:
            patiently(follower.follow)
            time.sleep(RESUME_S)
    return job


class _Follower:
    """Where in its events a watched job is."""

    def __init__(self, client: GatewayClient, job_id: str, display: Display) -> None:
        self._client = client
        self._path = f"/v2/jobs/{job_id}"
        self._display = display
        self._last_id = ""
        self._doing = ""
        self._fraction: float | None = None

    def look(self) -> JobDocument:
        """The job's document, which is shown."""
        job = read_job(patiently(lambda: self._client.call("GET", self._path)))
        self._take_job(job)
        self._show()
        return job

    def follow(self) -> None:
        """Show events until their stream ends, or breaks off.

        Raises:
            GatewayAwayError: if there is no stream; not if it ends so: how long one lasted is not
                time that the gateway was away.
        """
        heard = False
        try:
            for event in self._client.follow(f"{self._path}/events", self._last_id):
                heard = True
                self._last_id = event.id or self._last_id
                self._take(event)
                self._show()
        except GatewayAwayError:
            if not heard:
                raise

    def _take(self, event: ServerEvent) -> None:
        if event.kind == "job":  # what it was when the stream began
            self._take_job(read_job(event.data.encode()))
        elif event.kind == "state":
            state = JobState(orjson.loads(event.data)["state"])
            self._doing = state.value
            self._fraction = 1.0 if state is JobState.SUCCEEDED else None
        elif event.kind == "progress":
            told = JobProgress.model_validate_json(event.data)
            self._doing = f"running: {told.message}" if told.message else "running"
            self._fraction = told.fraction

    def _take_job(self, job: JobDocument) -> None:
        done = 1.0 if job.state is JobState.SUCCEEDED else None
        self._doing = job.doing
        self._fraction = job.progress.fraction if job.progress and not done else done

    def _show(self) -> None:
        self._display.show(self._doing, self._fraction)
