"""The launcher's end of the guardian's pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from asyncio.subprocess import Process

from penstock.deploy.local.up.processes import PYTHON

EXIT_S = 5.0
"""A guardian with nothing to guard ends at once."""


class Guard:
    """Tells the guardian which process groups to end should this process vanish.

    A guardian that ended is replaced, and told again.
    """

    def __init__(self, lock_fd: int) -> None:
        self._lock_fd = lock_fd
        self._groups: set[int] = set()
        self._process: Process | None = None
        self._pipe: int | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def guardian_pid(self) -> int | None:
        """The guardian that guards now."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the guardian, from the main thread."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    def protect(self, group: int) -> None:
        """Put a process group under guard."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Take a process group that has ended off guard."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    async def stop(self) -> None:
        """Let the guardian end whatever is still under guard, and itself."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._process is None:
            return
        self._hang_up()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), EXIT_S)

    async def _keep(self) -> None:
        while self._process is not None:
            await self._process.wait()
            self._hang_up()
            await self._spawn()

    async def _spawn(self) -> None:
        reader, writer = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *PYTHON,
                "-m",
                "penstock.deploy.local.up.guardian",
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._lock_fd,),
                start_new_session=True,
            )
        finally:
            os.close(reader)
        self._pipe = writer
        for group in self._groups:
            self._tell(f"+{group}\n")

    def _tell(self, line: str) -> None:
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # its successor is told everything
                os.write(self._pipe, line.encode())

    def _hang_up(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
