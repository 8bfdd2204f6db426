"""What packages a model asks for, and which of them are not there. Pure but for reading files."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

REQUIREMENTS_FILE = "requirements.txt"

SUBSTITUTES = {
    "mlflow": ("mlflow-skinny",),
    "onnxruntime": ("onnxruntime-gpu",),
}
"""Other packages with the same modules."""


FOR_LOADING_ALONE = frozenset({"mlflow", "onnx", "cloudpickle"})
"""What MLflow writes down for its own loading of a model: a graph is run without."""

NAMED_MAX = 5
"""Packages that a note names: a status message has room for a sentence or three."""


@dataclass(frozen=True)
class Comparison:
    """What is asked for and not installed, or in another version (`pandas 2.0, not ==1.5`)."""

    missing: tuple[str, ...]
    different: tuple[str, ...]


def read_requirements(folder: Path) -> tuple[str, ...]:
    """The lines of a model's `requirements.txt`, without comments; empty if there is none."""
    try:
        text = (folder / REQUIREMENTS_FILE).read_text(errors="replace")
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
        elif not _is_one_of(requirement.specifier, installed[found[0]]):
            version = installed[found[0]]
            different.append(f"{requirement.name} {version}, not {requirement.specifier}")
    return Comparison(tuple(missing), tuple(different))


def _is_one_of(wanted: SpecifierSet, version: str) -> bool:
    try:
        return wanted.contains(version, prereleases=True)
    except InvalidVersion:  # as old packages have them
        return not wanted


def unmet(lines: Iterable[str], installed: Mapping[str, str], *, runs_code: bool) -> str:
    """What a model that is loaded asks for and has not; empty if there is nothing to say.

    Args:
        runs_code: code that came with it runs. It is not loaded without its packages, so that other
            versions are what is to be known. A graph needs none of them but is told to lack them.
    """
    found = compare(lines, installed)
    if runs_code:
        return _told("it runs with other versions than it asks for", found.different)
    missing = [
        each
        for each in found.missing
        if canonicalize_name(Requirement(each).name) not in FOR_LOADING_ALONE
    ]
    return _told("packages that it asks for are not installed", missing)


def _told(what: str, packages: Sequence[str]) -> str:
    if not packages:
        return ""
    more = f" and {len(packages) - NAMED_MAX} more" if len(packages) > NAMED_MAX else ""
    return f"{what}: {', '.join(packages[:NAMED_MAX])}{more}"
