"""A task in a child process: a request as JSON on its standard input, an outcome on its output.

For what takes long, blocks, or imports what a service must not. A request may hold a password,
and command lines are public; so nothing of it is an argument. The child ends with its parent, and
what it starts is in its process group, which is killed when nobody waits for the outcome any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from penstock.shared.process.lifecycle import die_with_parent, environment_of_child
from penstock.shared.process.telemetry import get_logger

log = get_logger("child_task")

DIAGNOSTICS_BYTES_MAX = 4096
"""Most of a failed child's standard error that is logged."""


class TaskOutcome(BaseModel):
    """What a task comes to; `error` says in words why it did not, and is empty if it did."""

    error: str = ""


Request = TypeVar("Request", bound=BaseModel)
Outcome = TypeVar("Outcome", bound=TaskOutcome)


async def run_child_task(
    name: str,
    module: str,
    folder: Path,
    request: BaseModel,
    outcome: type[Outcome],
    timeout_s: float | None = None,
) -> Outcome:
    """Run `python -m module folder` and return its outcome, or one that says how it died.

    Cancellation kills it.

    Args:
        name: what it does, as in "the fetching process died".
        module: one whose `main` calls `answer`.
        timeout_s: longest run, after which it is killed; None: no limit.
    """
    with tempfile.TemporaryFile() as diagnostics:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=diagnostics,
            env=environment_of_child(),
            process_group=0,  # to be killed whole; in our session (`end_orphans`)
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer, _ = await child.communicate(request.model_dump_json().encode())
        except TimeoutError:
            return outcome(error=f"no end after {timeout_s:.0f} s")
        finally:
            await _end(child)
        try:
            return outcome.model_validate_json(answer)
        except ValidationError:
            text = _tail(diagnostics)
            log.error(f"the {name} process died", code=child.returncode, stderr=text)
            return outcome(error=f"the {name} process died ({child.returncode})")


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill a child that still runs, with all that it started."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _tail(diagnostics: IO[bytes]) -> str:
    size = diagnostics.seek(0, os.SEEK_END)
    diagnostics.seek(max(0, size - DIAGNOSTICS_BYTES_MAX))
    return diagnostics.read().decode(errors="replace")


def answer(request: type[Request], work: Callable[[Path, Request], TaskOutcome]) -> None:
    """The child's whole `main`: read the request, do the work in a folder, write the outcome.

    What the work prints goes to standard error, so that the outcome stands alone.
    """
    die_with_parent()
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    outcome = work(Path(sys.argv[1]), request.model_validate_json(sys.stdin.buffer.read()))
    with os.fdopen(out, "wb") as stream:
        stream.write(outcome.model_dump_json().encode())
