"""A process that builds one environment into the cache and ends.

    python -m penstock.worker.environments.build FOLDER < BuildRequest > BuildOutcome

It exists because that is long and blocks. Whoever else wants the same environment waits for its
lock in a process of its own, and then finds it there.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel
from setproctitle import setproctitle

from penstock.shared.process.lifecycle import die_with_parent
from penstock.worker.environments.recipes import OWN_PACKAGES, Recipe
from penstock.worker.environments.requirements import REQUIREMENTS_FILE

LINES_MAX = 6
"""Of what pip said last, so many lines are passed on."""

MESSAGE_LENGTH_MAX = 1200

PATH_FILE = "penstock.pth"


class BuildRequest(BaseModel):
    """What is to be built: for `model`, whose files the recipe was read from."""

    recipe: Recipe
    model: str
    environments_max: int


class BuildOutcome(BaseModel):
    """An error in words for the operator, or nothing."""

    error: str = ""


class BuildError(Exception):
    """The environment cannot be built; in words for the operator."""


def interpreter_in(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / "bin" / "python"


def use_lock(folder: Path, digest: str) -> Path:
    """The file of which everyone who uses an environment holds a shared lock."""
    return folder / "locks" / f"{digest}.use"


def build(folder: Path, request: BuildRequest) -> None:
    """Build the environment unless it is there, then evict others beyond the bound.

    Raises:
        BuildError: if it cannot be built.
        OSError: if the folder cannot be written.
    """
    target = folder / request.recipe.digest
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    with _locked(folder / "locks" / f"{request.recipe.digest}.build"):
        if target.exists():
            return
        temporary = folder / "tmp" / request.recipe.digest
        shutil.rmtree(temporary, ignore_errors=True)  # what a dead process left there
        try:
            _install(temporary, request)
            _link_own_code(temporary, target, request.recipe)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _clean(folder)
    evict(folder, request.environments_max, keep=request.recipe.digest)


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


def _install(environment: Path, request: BuildRequest) -> None:
    # Our own pip installs into it, which saves seconds; an interpreter without pip has one made.
    borrowed = importlib.util.find_spec("pip") is not None
    venv.create(environment, with_pip=not borrowed, symlinks=True)
    interpreter = str(interpreter_in(environment))
    pip = [sys.executable, "-m", "pip", "--python", interpreter]
    command = pip if borrowed else [interpreter, "-m", "pip"]
    command += ["--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    command += request.recipe.needs
    if request.recipe.requirements.strip():
        command += ["-r", str(Path(request.model) / REQUIREMENTS_FILE)]
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            cwd=request.model,  # paths in requirements are relative to it
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            output.seek(0)
            raise BuildError(_last_words(output.read().decode(errors="replace")))


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("ERROR")] or lines
    return " | ".join(telling[-LINES_MAX:])[-MESSAGE_LENGTH_MAX:]


def _link_own_code(environment: Path, target: Path, recipe: Recipe) -> None:
    """Let the environment import our own packages, and nothing else of where they lie."""
    links = environment / "own" / "penstock"
    links.mkdir(parents=True)
    for name in OWN_PACKAGES:
        (links / name.removeprefix("penstock.")).symlink_to(recipe.code[name])
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / PATH_FILE).write_text(f"{target / 'own'}\n")


def main() -> None:
    """Read a request, build, write the outcome."""
    die_with_parent()
    setproctitle("penstock environment build")
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = BuildRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        build(Path(sys.argv[1]), request)
        outcome = BuildOutcome()
    except BuildError as error:
        outcome = BuildOutcome(error=str(error))
    except (OSError, subprocess.SubprocessError) as error:
        outcome = BuildOutcome(error=f"{type(error).__name__}: {error}")
    with os.fdopen(answer, "wb") as out:
        out.write(outcome.model_dump_json().encode())


if __name__ == "__main__":
    main()
