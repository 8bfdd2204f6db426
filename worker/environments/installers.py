"""Installs packages into a fresh environment: by uv where it is to be had, else by pip.

uv takes a tenth of the time. It is never the reason that a build fails: what it refuses, or fails
at, pip does from the beginning, whose words are then the error.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from penstock.worker.environments.pip_settings import (
    OWN_VARIABLES,
    NotForUvError,
    check_requirements,
    no_index,
    pip_settings,
    uv_variables,
)
from penstock.worker.environments.recipes import Recipe
from penstock.worker.environments.requirements import REQUIREMENTS_FILE

Installer = Literal["auto", "pip"]

LINES_MAX = 6
"""Of what an installer said last, so many lines are passed on."""

MESSAGE_LENGTH_MAX = 1200

OUTPUT_BYTES_MAX = 1024**2
"""Most of an installer's output that is looked at for them; a compiler may write without end."""

CACHE_BYTES_MAX = 10 * 1024**3
"""Most that uv's cache may hold beside what environments have links to: twice torch with CUDA."""

CACHE_WAIT_S = 5
"""How long it is waited to empty the cache while others use it; else the next build tries."""


class InstallError(Exception):
    """The packages cannot be installed; in words for the operator."""

    def __init__(self, message: str, why_not_uv: str) -> None:
        super().__init__(message)
        self.why_not_uv = why_not_uv


class Installed(NamedTuple):
    """What installed packages, and why that was pip though uv is there (empty: it is not, or was
    not to)."""

    installer: str
    why_not_uv: str = ""


class Target(NamedTuple):
    """The environment to be made, and for which model; uv keeps what it downloads in `cache`."""

    environment: Path
    model: Path
    recipe: Recipe
    cache: Path

    @property
    def interpreter(self) -> str:
        """Its interpreter."""
        return str(interpreter_in(self.environment))


def interpreter_in(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / "bin" / "python"


def find_uv() -> str | None:
    """uv beside our interpreter, or on PATH."""
    folders = (sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))
    return shutil.which("uv", path=os.pathsep.join(folders))


def install(target: Target, installer: Installer) -> Installed:
    """Make the environment, with all that is in its recipe.

    Raises:
        InstallError: if pip cannot install that either.
    """
    uv = find_uv() if installer == "auto" else None
    why_not_uv = ""
    if uv is not None:
        try:
            _install_by_uv(uv, target)
        except (NotForUvError, OSError) as error:
            why_not_uv = str(error)
            shutil.rmtree(target.environment, ignore_errors=True)  # half of it may be there
        else:
            _bound_cache(uv, target.cache)
            return Installed("uv")
    failed = _run([*_create(target), "install", "--progress-bar", "off", *_wanted(target)], target)
    if failed:
        raise InstallError(failed, why_not_uv)
    return Installed("pip", why_not_uv)


def _create(target: Target) -> list[str]:
    """Make it empty; returns the command of the pip that installs into it."""
    # Our own pip, which saves seconds; an interpreter without pip has one made.
    borrowed = importlib.util.find_spec("pip") is not None
    venv.create(target.environment, with_pip=not borrowed, symlinks=True)
    borrow = [sys.executable, "-m", "pip", "--python", target.interpreter]
    pip = borrow if borrowed else [target.interpreter, "-m", "pip"]
    return [*pip, "--disable-pip-version-check", "--no-input"]


def _wanted(target: Target) -> list[str]:
    named = target.recipe.requirements.strip()
    return [*target.recipe.needs, *(("-r", str(target.model / REQUIREMENTS_FILE)) if named else ())]


def _install_by_uv(uv: str, target: Target) -> None:
    check_requirements((target.recipe.requirements, target.recipe.constraints))
    settings = _settings_of([*_create(target), "config", "list"], target)
    variables = {"UV_CACHE_DIR": str(target.cache)} | _kept_variables()
    variables |= uv_variables(settings, target.model)
    # The model's folder may hold settings for uv in a pyproject.toml.
    command = [uv, "--no-config", "--no-progress", "pip", "install", "--python", target.interpreter]
    command += ["--no-index"] if no_index(settings) else []
    failed = _run([*command, *_wanted(target)], target, variables)
    if failed:
        raise NotForUvError(f"uv failed: {failed}")


def _settings_of(command: Sequence[str], target: Target) -> dict[str, str]:
    listed = subprocess.run(
        command,
        cwd=target.model,
        env={**os.environ, "PIP_NO_INPUT": "1"},  # as `pip_settings` wants it
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return pip_settings(listed.stdout)


def _kept_variables() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UV_") or name.startswith(OWN_VARIABLES)
    }
    if "REQUESTS_CA_BUNDLE" in kept:  # pip trusts it, too
        kept.setdefault("SSL_CERT_FILE", kept["REQUESTS_CA_BUNDLE"])
    return kept


def _run(command: Sequence[str], target: Target, variables: Mapping[str, str] = os.environ) -> str:
    """Run an installer; returns what it said last if it failed, else nothing."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            cwd=target.model,  # paths in requirements are relative to it
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode == 0:
            return ""
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_BYTES_MAX))
        text = output.read().decode(errors="replace")
        return _last_words(text) or f"it ended with {done.returncode}"


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("ERROR")] or lines
    return " | ".join(telling[-LINES_MAX:])[-MESSAGE_LENGTH_MAX:]


def _bound_cache(uv: str, cache: Path) -> None:
    """Empty the cache if it holds too much that no environment has a link to."""
    unshared = 0
    for path in (Path(folder, name) for folder, _, names in os.walk(cache) for name in names):
        with suppress(OSError):  # another build was done with it
            found = path.lstat()
            unshared += found.st_size if found.st_nlink == 1 else 0
    if unshared > CACHE_BYTES_MAX:
        subprocess.run(
            [uv, "--no-config", "--cache-dir", str(cache), "cache", "clean"],
            env={**os.environ, "UV_LOCK_TIMEOUT": str(CACHE_WAIT_S)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
