"""What packages a model asks for, and which of them are not there. Pure but for reading files."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS_FILE = "requirements.txt"

SUBSTITUTES = {
    "mlflow": ("mlflow-skinny",),
    "onnxruntime": ("onnxruntime-gpu",),
}
"""Other packages with the same modules."""


@dataclass(frozen=True)
class Comparison:
    """What is asked for and not installed, or in another version (`pandas 2.0, not ==1.5`)."""

    missing: tuple[str, ...]
    different: tuple[str, ...]


def read_requirements(folder: Path) -> tuple[str, ...]:
    """The lines of a model's `requirements.txt`, without comments; empty if there is none."""
    try:
        text = (folder / REQUIREMENTS_FILE).read_text()
    except OSError:
        return ()
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    return tuple(line for line in lines if line and not line.startswith("#"))


def parsed(lines: Iterable[str]) -> list[Requirement]:
    """Those lines that name a package which this interpreter is to have.

    Options of pip, paths and archives are its business alone: nothing tells what they install.
    """
    requirements = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            requirements.append(requirement)
    return requirements


def installed_versions() -> dict[str, str]:
    """Version of every package of this interpreter, by canonical name."""
    return {
        canonicalize_name(name): each.version
        for each in importlib.metadata.distributions()
        if (name := each.metadata["Name"])
    }


def compare(lines: Iterable[str], installed: Mapping[str, str]) -> Comparison:
    """Which packages of the lines are missing, or there in another version."""
    missing, different = [], []
    for requirement in parsed(lines):
        name = canonicalize_name(requirement.name)
        found = [each for each in (name, *SUBSTITUTES.get(name, ())) if each in installed]
        if not found:
            missing.append(f"{requirement.name}{requirement.specifier}")
        elif not requirement.specifier.contains(installed[found[0]], prereleases=True):
            version = installed[found[0]]
            different.append(f"{requirement.name} {version}, not {requirement.specifier}")
    return Comparison(tuple(missing), tuple(different))
