"""What lies in a folder of models: which models, which versions, and what is neither.

Names that begin with a dot are passed over. What else has no place there is reported, once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from penstock.registry_sync.plan.tags.names import DEFAULT_PREFIX
from penstock.shared.artifacts.copy import STATUS_FILE, TAGS_FILE
from penstock.shared.artifacts.folder import is_text
from penstock.shared.process.telemetry import get_logger

MODELS_MAX = 10_000
VERSIONS_MAX = 1_000
"""Most entries of a folder that are looked at: every poll looks at all of them."""

COMPLAINTS_MAX = 1_000
"""Most complaints that are remembered, in order to say each only once."""

VERSION = re.compile(r"[1-9][0-9]{0,17}")

_STEM, _, _SUFFIX = STATUS_FILE.partition(".")

DANGLING = "it is a link to what is not there: is that mounted?"
"""Who deletes a model or a version deletes the link; one to nothing leads into a mount."""


class Complaints:
    """Says what is wrong once, not at every poll; and again if it was mended in between.

    No outage: what was mended is not said, but is what the next poll does not complain of.
    """

    def __init__(self) -> None:
        self._log = get_logger("folder")
        self._before: dict[str, str] = {}
        self._now: dict[str, str] = {}

    def begin(self) -> None:
        """Begin a poll."""
        self._before, self._now = self._now, {}

    def add(self, what: object, why: str, event: str = "not followed") -> None:
        """Something is wrong in this poll."""
        name = str(what) if is_text(str(what)) else ascii(what)
        if len(self._now) < COMPLAINTS_MAX:
            if self._before.get(name) != why and self._now.get(name) != why:
                self._log.warning(event, path=name, reason=why)
            self._now[name] = why


def list_models(
    folder: Path,
    complaints: Complaints,
    without: Collection[str],
    look_at: Callable[[Path], None],
) -> tuple[list[str], bool]:
    """The names of the folders, and whether there is anything at all.

    Args:
        without: names of those that are not to be touched.
        look_at: called before an entry is looked at, which may hang.

    Raises:
        OSError: if the folder cannot be read.
    """
    names: list[str] = []
    anything = False
    with os.scandir(folder) as entries:
        for entry in entries:
            anything = True
            if entry.name.startswith("."):
                continue
            if entry.name in without:
                names.append(entry.name)
                continue
            look_at(folder / entry.name)
            if (is_folder := _is_folder(entry, complaints)) is None:
                continue
            if not is_text(entry.name):
                complaints.add(entry.path, "its name is not UTF-8")
            elif not is_folder:
                complaints.add(entry.path, "it is no folder of a model")
            elif len(names) == MODELS_MAX:
                complaints.add(folder, f"there are more than {MODELS_MAX} models")
            else:
                names.append(entry.name)
    return names, anything


def list_versions(folder: Path, complaints: Complaints) -> list[str]:
    """The versions in a model's folder; none if there is no such folder.

    Raises:
        OSError: if the folder cannot be read, or holds too much.
    """
    versions: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or _is_beside(entry.name):
                    continue
                is_folder = _is_folder(entry, complaints)
                if is_folder and VERSION.fullmatch(entry.name):
                    versions.append(entry.name)
                elif is_folder is not None:
                    complaints.add(entry.path, "a version is a folder named 1, 2, 3 and so on")
                if len(versions) > VERSIONS_MAX:
                    raise OSError(0, f"there are more than {VERSIONS_MAX} versions")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return versions


def status_file_of(prefix: str) -> str:
    """The file of a system's statuses, by the prefix of its tags: each system has its own."""
    return STATUS_FILE if prefix == DEFAULT_PREFIX else f"{_STEM}.{prefix}.{_SUFFIX}"


def _is_beside(name: str) -> bool:
    """Whether a file belongs beside versions: tags, or statuses of this system or of another."""
    return name == TAGS_FILE or (name.startswith(f"{_STEM}.") and name.endswith(f".{_SUFFIX}"))


def is_dangling(path: Path) -> bool:
    """Whether a path is a link to what is not there."""
    return path.is_symlink() and not path.exists()


def _is_folder(entry: os.DirEntry[str], complaints: Complaints) -> bool | None:
    """Whether an entry is a folder, or a link to one; None, and a complaint, if that is unknown.

    A link that leads to itself, or into a mount that is away, must not hide all others.
    """
    try:
        if entry.is_dir() or not is_dangling(Path(entry.path)):
            return entry.is_dir()
        complaints.add(entry.path, DANGLING)
    except OSError as error:
        complaints.add(entry.path, error.strerror or "it cannot be looked at")
    return None
