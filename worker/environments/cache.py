"""Environments of their own for models that ask for one (`penstock.env` = `isolated`).

They lie in a folder that agents of one node share, each under the digest of its recipe, and are
never changed once they are there. A child process (`penstock.worker.environments.build`) builds
them, so that nothing that runs waits for it. An agent holds a shared lock of each that it handed
out, which keeps it from eviction, and which the kernel takes back when the agent ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.process.child_task import run_child_task
from penstock.shared.process.telemetry import get_logger
from penstock.worker.environments.build import BuildOutcome, BuildRequest, use_lock
from penstock.worker.environments.installers import Installer, interpreter_in
from penstock.worker.environments.recipes import Recipe, recipe_of

log = get_logger("environments")


class EnvironmentBuildError(PenstockError):
    """A model's environment cannot be had."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INTERNAL, message)


class Environments:
    """What an agent uses: an interpreter for a model.

    Args:
        folder: the cache.
        environments_max: so many are kept, and those that are in use whatever it takes.
        installer: what installs packages into them.
    """

    def __init__(self, folder: Path, environments_max: int, installer: Installer = "auto") -> None:
        self._folder = folder.absolute()
        self._environments_max = environments_max
        self._installer = installer
        self._held: dict[Path, tuple[str, int]] = {}

    def interpreter(self, model: Path) -> str:
        """The interpreter that `prepare` had ready for the model in a folder.

        Raises:
            KeyError: if it had not.
        """
        digest, _ = self._held[model]
        return str(interpreter_in(self._folder / digest))

    def digest(self, model: Path) -> str:
        """The digest of that environment's recipe; raises as `interpreter` does."""
        return self._held[model][0]

    async def prepare(self, model: Path) -> None:
        """Have the environment of the model in a folder, built if it is not there, and hold it.

        Raises:
            PenstockError: if it cannot be built.
        """
        recipe = await asyncio.to_thread(recipe_of, model)
        held = self._held.get(model)
        if held is None or held[0] != recipe.digest:
            self._release(model)
            self._held[model] = (recipe.digest, self._hold(recipe.digest))
        environment = self._folder / recipe.digest
        if not environment.exists():
            await self._build(recipe, model)
        with suppress(OSError):
            os.utime(environment)

    def keep_only(self, digests: Collection[str]) -> None:
        """Let go of those of models whose artifacts have other digests than these."""
        for model in [model for model in self._held if model.name not in digests]:
            self._release(model)

    def _hold(self, digest: str) -> int:
        path = use_lock(self._folder, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def _release(self, model: Path) -> None:
        held = self._held.pop(model, None)
        if held is not None:
            with suppress(OSError):
                os.utime(self._folder / held[0])  # used until now
            os.close(held[1])

    async def _build(self, recipe: Recipe, model: Path) -> None:
        log.info("building an environment", digest=recipe.digest[:12], model=str(model))
        request = BuildRequest(
            recipe=recipe,
            model=str(model),
            environments_max=self._environments_max,
            installer=self._installer,
        )
        outcome = await run_child_task(
            *("building", "penstock.worker.environments.build", self._folder, request, BuildOutcome)
        )
        if outcome.why_not_uv:
            log.warning("pip is used, not uv", digest=recipe.digest[:12], reason=outcome.why_not_uv)
        if outcome.error:
            raise EnvironmentBuildError(f"the model's environment cannot be built: {outcome.error}")
        log.info("environment built", digest=recipe.digest[:12], installer=outcome.installer)
