"""Child processes: how one is described, started, waited for and ended.

Children are started from the main thread (the parent-death signal fires when the spawning thread
ends), each in a session of its own, so that a Ctrl-C in the terminal reaches the launcher alone,
which then drains them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.up.guardian import signal_group
from penstock.shared.process.lifecycle import environment_of_child

PYTHON = (sys.executable, "-P")
"""`-P`: whatever folder we are started in, `shared` and `worker` are ours, not a folder there."""

EXEC_CHILD = (*PYTHON, "-m", "penstock.deploy.local.up.exec_child")
PENSTOCK = (*PYTHON, "-m", "penstock.deploy.local")


@dataclass(frozen=True)
class ProcessSpec:
    """A child to be.

    Attributes:
        name: for people, and of its log.
        command: program and arguments.
        log: takes its output.
        environment: variables besides the launcher's own.
        working_dir: None for the launcher's.
        pass_fds: descriptors that it inherits under the same numbers.
        grace_s: from SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds secrets
    working_dir: Path | None = None
    pass_fds: tuple[int, ...] = ()
    grace_s: float = 10.0


class Child(Protocol):
    """A running process that the launcher looks after."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    async def wait(self) -> str:
        """Wait for its end; says how it ended."""
        ...

    def ask_to_end(self) -> None:
        """Send SIGTERM, if it has not ended."""
        ...


class SpawnedChild:
    """A process that the launcher started."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> str:
        return describe_exit(await self._process.wait())

    def ask_to_end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()


class AdoptedChild:
    """A process that was there already, such as the store of a launcher that was killed."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def pid(self) -> int:
        return self._pid

    async def wait(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return "ended"
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return "ended"

    def ask_to_end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)


async def spawn(spec: ProcessSpec) -> SpawnedChild:
    """Start a child. Call it from the main thread only.

    Raises:
        CommandError: if its program cannot be run.
    """
    environment = {**environment_of_child(), "PYTHONSAFEPATH": "1", **spec.environment}
    with spec.log.open("ab") as log:
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.command,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=spec.working_dir,
                pass_fds=spec.pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"cannot start {spec.name}: {error.strerror}") from error
    return SpawnedChild(process)


async def terminate(child: Child, grace_s: float) -> bool:
    """End a child and what is left of its group; whether it went within the grace."""
    child.ask_to_end()
    try:
        await asyncio.wait_for(child.wait(), grace_s)
        in_time = True
    except TimeoutError:
        in_time = False
    signal_group(child.pid, signal.SIGKILL)
    if not in_time:
        await child.wait()
    return in_time


def describe_exit(returncode: int) -> str:
    """As in `exit status 1` or `killed by SIGKILL`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
