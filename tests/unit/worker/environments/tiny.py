"""Models that ask for a package which needs no network."""

from __future__ import annotations

import zipfile
from pathlib import Path


def model_with(folder: Path, version: str) -> Path:
    """A model that asks for a version of the package `tiny`."""
    folder.mkdir()
    wheel = f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr("tiny.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    (folder / "requirements.txt").write_text(f"--no-index\n./{wheel}\n")
    return folder
