"""What `penstock doctor` makes of what it found: pure judgements, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel

from penstock.shared.jobs.durability import Durability

PYTHON_MIN = (3, 11)
REDIS_MIN = (7, 0)
DESCRIPTORS_MIN = 1024
"""Fewer do not last for the sockets of one busy gateway and its clients."""

DESCRIPTORS_WELL = 8192
"""Room for some thousand clients at a time."""


class Level(StrEnum):
    """How bad it is: `mend` keeps something from working, `note` is to be known."""

    OK = "ok"
    NOTE = "note"
    MEND = "mend"


class Check(BaseModel):
    """One check; `remedy` says what to do, if anything."""

    check: str
    level: Level
    found: str
    remedy: str = ""


class ImportProbe(BaseModel):
    """What importing a library, in a process of its own, came to.

    Attributes:
        missing: the package that is not installed, or empty.
        error: why it could not be imported although it is there, or empty.
        gpus: how many of this machine's it can use; None: it has no word for that.
    """

    version: str = ""
    missing: str = ""
    error: str = ""
    gpus: int | None = None


class RedisFacts(BaseModel):
    """What a server says of itself; empty or None: it does not tell."""

    name: str
    version: str
    policy: str
    memory_max: int | None
    durability: Durability


def judge_python(version: tuple[int, ...]) -> Check:
    """Whether the interpreter is new enough."""
    text, least = (".".join(map(str, each)) for each in (version, PYTHON_MIN))
    if version >= PYTHON_MIN:
        return Check(check="python", level=Level.OK, found=text)
    remedy = f"install Penstock in an environment of Python {least} or later"
    return Check(check="python", level=Level.MEND, found=text, remedy=remedy)


def judge_import(check: str, extra: str, probe: ImportProbe, gpus: int = 0) -> Check:
    """A part of ours, or a runtime: what is not installed is not wanted here, and no mistake."""
    install = f"pip install 'penstock[{extra}]'"
    if probe.missing:
        found, remedy = f"not installed ({probe.missing})", f"if it is wanted here: {install}"
        return Check(check=check, level=Level.NOTE, found=found, remedy=remedy)
    if probe.error:
        remedy = f"install it anew: {install} --force-reinstall"
        return Check(check=check, level=Level.MEND, found=probe.error, remedy=remedy)
    if probe.gpus is not None and probe.gpus < gpus:
        found = f"{probe.version}; uses {probe.gpus} of {gpus} GPUs"
        remedy = "install its build for the CUDA of this machine's driver, or serve on the CPU"
        return Check(check=check, level=Level.NOTE, found=found, remedy=remedy)
    return Check(check=check, level=Level.OK, found=probe.version or "installed")


def judge_runtimes(worker: ImportProbe, runtimes: Mapping[str, ImportProbe]) -> list[Check]:
    """Whether the worker, if there is one, could load anything."""
    if worker.missing or any(not (each.missing or each.error) for each in runtimes.values()):
        return []
    remedy = "install one with the worker: pip install 'penstock[worker,onnx]' (or torch, pyfunc)"
    found = "a worker here can load no model"
    return [Check(check="runtimes", level=Level.MEND, found=found, remedy=remedy)]


def judge_redis(facts: RedisFacts) -> list[Check]:
    """Version, eviction and persistence of a server that answers."""
    return [_version(facts), _eviction(facts), _memory(facts), _persistence(facts)]


def _version(facts: RedisFacts) -> Check:
    numbers = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    enough = numbers >= REDIS_MIN
    least = ".".join(map(str, REDIS_MIN))
    return Check(
        check="redis version",
        level=Level.OK if enough else Level.MEND,
        found=f"{facts.name} {facts.version or 'of an unknown version'}",
        remedy="" if enough else f"use Redis {least} or later, or Valkey",
    )


def _eviction(facts: RedisFacts) -> Check:
    if facts.policy == "noeviction":
        return Check(check="redis eviction", level=Level.OK, found="noeviction")
    if not facts.policy:
        remedy = "see that its maxmemory-policy is noeviction"
        return Check(check="redis eviction", level=Level.NOTE, found="not told", remedy=remedy)
    return Check(
        check="redis eviction",
        level=Level.MEND,
        found=f"maxmemory-policy {facts.policy}: jobs and deployments may vanish",
        remedy="set maxmemory-policy noeviction",
    )


def _memory(facts: RedisFacts) -> Check:
    if facts.memory_max is None or facts.memory_max > 0:
        found = "not told" if facts.memory_max is None else f"maxmemory {facts.memory_max}"
        return Check(check="redis memory", level=Level.OK, found=found)
    remedy = "set maxmemory: at it, jobs are refused; without it, the kernel may end the server"
    return Check(check="redis memory", level=Level.NOTE, found="no bound", remedy=remedy)


def _persistence(facts: RedisFacts) -> Check:
    match facts.durability:
        case Durability.ALWAYS | Durability.ASKED:
            level, remedy = Level.OK, ""
        case Durability.EVERYSEC:
            level = Level.NOTE
            remedy = "a crash may lose two seconds of jobs: set appendfsync always, or use 7.2"
        case Durability.NONE:
            level = Level.MEND
            remedy = "a crash loses jobs: set appendonly yes, and appendfsync always or everysec"
        case Durability.UNKNOWN:
            level, remedy = Level.NOTE, "see that it has an append-only file (appendonly yes)"
    return Check(
        check="redis persistence", level=level, found=facts.durability.value, remedy=remedy
    )


def judge_descriptors(limit: int) -> Check:
    """Whether there are enough file descriptors; -1: without a limit."""
    found = "no limit" if limit < 0 else str(limit)
    if limit < 0 or limit >= DESCRIPTORS_WELL:
        return Check(check="file descriptors", level=Level.OK, found=found)
    level = Level.NOTE if limit >= DESCRIPTORS_MIN else Level.MEND
    remedy = "raise the limit for many clients: ulimit -n 65536, or LimitNOFILE= of a unit"
    return Check(check="file descriptors", level=level, found=found, remedy=remedy)
