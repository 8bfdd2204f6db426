"""Jobs as the gateway's JSON tells them, and how a command shows them."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from rich import box
from rich.table import Table

from penstock.deploy.local.cli.failures import CommandError
from penstock.shared.contracts.document import Document
from penstock.shared.jobs.record import FINISHED, JobState

Answer = TypeVar("Answer", bound=Document)


class JobProgress(Document):
    """How far an execution is; `fraction` is 0 to 1."""

    fraction: float | None = None
    message: str | None = None
    eta_seconds: float | None = None
    estimated: bool = False


class JobError(Document):
    """Why the last attempt failed."""

    code: str
    message: str = ""


class JobDocument(Document):
    """A job. Times are ISO 8601 in UTC; what has not happened yet is None."""

    id: str
    state: JobState
    model: str
    version: str = ""
    priority: int | None = None
    attempts: int = 0
    dead: bool = False
    place: int | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    result_expires_at: str | None = None
    progress: JobProgress | None = None
    error: JobError | None = None
    durability: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it, unless it is retried."""
        return self.state in FINISHED

    @property
    def doing(self) -> str:
        """Where it stands, in a few words."""
        if self.state is JobState.QUEUED and self.place is not None:
            return f"queued, {self.place} before it"
        if self.state is JobState.RUNNING and self.progress is not None and self.progress.message:
            return f"running: {self.progress.message}"
        if self.error is not None and self.state is JobState.FAILED:
            dead = " (dead letter)" if self.dead else ""
            return f"failed{dead}: {self.error.code}: {self.error.message}"
        return self.state.value


class JobsPage(Document):
    """Some jobs, newest first; `next_cursor` leads to older ones, if there are any."""

    jobs: list[JobDocument]
    next_cursor: str | None = None


class UndeliveredWebhook(Document):
    """A state of a job that its webhook was not told."""

    job: str
    state: JobState
    attempts: int
    reason: str
    given_up_at: str | None = None

    @property
    def line(self) -> str:
        """All of it; the reason may be long, so this is no table."""
        told = f"{self.state}: {self.reason}; attempts: {self.attempts}"
        return f"{self.job}  {shown_time(self.given_up_at)}  {told}"


class WebhooksPage(Document):
    """Some of those, newest first; `next_cursor` leads to older ones, if there are any."""

    webhooks: list[UndeliveredWebhook]
    next_cursor: str | None = None


def read_job(body: bytes) -> JobDocument:
    """A job out of an answer's body.

    Raises:
        CommandError: if it is none.
    """
    return _read(JobDocument, body)


def read_page(body: bytes) -> JobsPage:
    """A page of jobs out of an answer's body.

    Raises:
        CommandError: if it is none.
    """
    return _read(JobsPage, body)


def read_webhooks(body: bytes) -> WebhooksPage:
    """A page of webhooks that were given up out of an answer's body.

    Raises:
        CommandError: if it is none.
    """
    return _read(WebhooksPage, body)


def _read(kind: type[Answer], body: bytes) -> Answer:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise CommandError(f"the gateway's answer is no job of ours (at {where})") from error


def table_of(jobs: list[JobDocument]) -> Table:
    """One line for each job."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("job", "created", "model", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in ("job", "created"))
    for job in jobs:
        model = f"{job.model}/{job.version}" if job.version else job.model
        table.add_row(job.id, shown_time(job.created_at), model, job.doing)
    return table


def lines_of(job: JobDocument) -> list[str]:
    """All that is known of a job, a line each."""
    rows = {
        "job": job.id,
        "model": f"{job.model}/{job.version}" if job.version else job.model,
        "state": job.doing,
        "priority": "" if job.priority is None else str(job.priority),
        "attempts": str(job.attempts),
        "created": shown_time(job.created_at),
        "started": shown_time(job.started_at),
        "finished": shown_time(job.finished_at),
        "kept until": shown_time(job.result_expires_at),
        "progress": _shown_progress(job.progress),
    }
    return [f"{name:<12}{value}" for name, value in rows.items() if value]


def shown_time(text: str | None) -> str:
    """A time without its parts of a second."""
    return (text or "").partition(".")[0].rstrip("Z").replace("T", " ")


def _shown_progress(progress: JobProgress | None) -> str:
    if progress is None or progress.fraction is None:
        return ""
    how = " (estimated)" if progress.estimated else ""
    left = f", {progress.eta_seconds:.0f} s left" if progress.eta_seconds is not None else ""
    return f"{progress.fraction:.0%}{how}{left}"
