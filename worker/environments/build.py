"""A process that builds one environment into the cache and ends.

    python -m penstock.worker.environments.build FOLDER < BuildRequest > BuildOutcome

It exists because that is long and blocks. Whoever else wants the same environment waits for its
lock in a process of its own, and then finds it there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel
from setproctitle import setproctitle

from penstock.shared.process.child_task import TaskOutcome, answer
from penstock.worker.environments.installers import Installer, InstallError, Target, install
from penstock.worker.environments.recipes import OWN_PACKAGES, Recipe

PATH_FILE = "penstock.pth"

UV_CACHE = "uv"
"""In the cache's folder, so that environments have links to it and not copies."""


class BuildRequest(BaseModel):
    """What is to be built: for `model`, whose files the recipe was read from."""

    recipe: Recipe
    model: str
    environments_max: int
    installer: Installer = "auto"


class BuildOutcome(TaskOutcome):
    """An error in words for the operator, or what installed it; both empty if it was there.

    Attributes:
        why_not_uv: why pip did it though uv was to; empty if that was not so.
    """

    installer: str = ""
    why_not_uv: str = ""


def use_lock(folder: Path, digest: str) -> Path:
    """The file of which everyone who uses an environment holds a shared lock."""
    return folder / "locks" / f"{digest}.use"


def build(folder: Path, request: BuildRequest) -> BuildOutcome:
    """Build the environment unless it is there, then evict others beyond the bound.

    Raises:
        InstallError: if it cannot be built.
        OSError: if the folder cannot be written.
    """
    target = folder / request.recipe.digest
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    with _locked(folder / "locks" / f"{request.recipe.digest}.build"):
        if target.exists():
            return BuildOutcome()
        temporary = folder / "tmp" / request.recipe.digest
        shutil.rmtree(temporary, ignore_errors=True)  # what a dead process left there
        try:
            model, cache = Path(request.model), folder / UV_CACHE
            made = install(Target(temporary, model, request.recipe, cache), request.installer)
            _link_own_code(temporary, target, request.recipe)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _clean(folder)
    evict(folder, request.environments_max, keep=request.recipe.digest)
    return BuildOutcome(installer=made.installer, why_not_uv=made.why_not_uv)


def _clean(folder: Path) -> None:
    """Remove what builders that died left half done."""
    for path in (folder / "tmp").iterdir():
        lock = folder / "locks" / f"{path.name.partition('.')[0]}.build"
        with suppress(BlockingIOError), _locked(lock, wait=False):
            shutil.rmtree(path, ignore_errors=True)


def evict(folder: Path, environments_max: int, keep: str) -> list[str]:
    """Remove what was not used for longest, down to a number; never what is in use, or `keep`."""
    found = [path for path in folder.iterdir() if len(path.name) == len(keep)]
    evicted: list[str] = []
    for path in sorted(found, key=lambda path: path.stat().st_mtime):
        if len(found) - len(evicted) <= environments_max:
            break
        if path.name == keep:
            continue
        with suppress(BlockingIOError), _locked(use_lock(folder, path.name), wait=False):
            doomed = folder / "tmp" / f"{path.name}.evicted"
            path.rename(doomed)  # at once: nobody finds half of it
            shutil.rmtree(doomed, ignore_errors=True)
            evicted.append(path.name)
    return evicted


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a file's exclusive lock; raises BlockingIOError if it is taken and `wait` is not set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _link_own_code(environment: Path, target: Path, recipe: Recipe) -> None:
    """Let the environment import our own packages, and nothing else of where they lie."""
    links = environment / "own" / "penstock"
    links.mkdir(parents=True)
    for name in OWN_PACKAGES:
        (links / name.removeprefix("penstock.")).symlink_to(recipe.code[name])
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / PATH_FILE).write_text(f"{target / 'own'}\n")


def _outcome(folder: Path, request: BuildRequest) -> BuildOutcome:
    setproctitle("penstock environment build")
    try:
        return build(folder, request)
    except InstallError as error:
        return BuildOutcome(error=str(error), why_not_uv=error.why_not_uv)
    except (OSError, subprocess.SubprocessError) as error:
        return BuildOutcome(error=f"{type(error).__name__}: {error}")


def main() -> None:
    """Read a request, build, write the outcome."""
    answer(BuildRequest, _outcome)


if __name__ == "__main__":
    main()
