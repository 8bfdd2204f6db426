"""Files that are never there half, nor with more rights than they are to have."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file anew, on disk once this returns.

    Args:
        path: of the file; one that is there is replaced.
        data: what it is to hold.
        mode: its rights, as for `chmod`.

    Raises:
        OSError: if that is not possible; what was there is left as it was.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
