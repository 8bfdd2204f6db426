"""What the file system says of a version's folder, and the small files beside it.

These block, and hang where a mount does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from penstock.shared.artifacts.copy import content_of

Where: TypeAlias = tuple[str, str]
"""Path and fingerprint of a version's content."""

ABSENT: Where = ("", "")


def look(path: Path) -> tuple[Where, float]:
    """What a version's folder, or the folder that it links to, holds, and since when."""
    if not path.is_dir():
        return ABSENT, _changed_at(path.parent)
    # A link may be set to another folder before somebody copies: what was seen is what is meant.
    folder = path.resolve(strict=True) if path.is_symlink() else path
    content = content_of(folder)
    if not content.fingerprint:
        return ABSENT, content.changed_at
    return (os.fsencode(folder).decode("utf-8", "replace"), content.fingerprint), content.changed_at


def read(path: Path, bytes_max: int) -> tuple[bytes, float]:
    """A small file, and when it was changed; without one, empty, and when its folder was."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b"", _changed_at(path.parent)
    try:
        changed_at = os.fstat(descriptor).st_ctime
        text = b""
        while len(text) <= bytes_max and (more := os.read(descriptor, bytes_max + 1 - len(text))):
            text += more
        return text, changed_at
    finally:
        os.close(descriptor)  # which `os.fdopen` would not do where this is a folder


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_ctime
    except FileNotFoundError:
        return 0.0  # what is in a folder that is not there does not change
