"""The two files by which an operator and Penstock talk in a folder of models (pure).

`tags.yaml`, beside a model or a version, is the operator's:

    penstock.role: stable         # of a version; the other tags of a model or a version
    penstock.max_batch_size: 8
    aliases: {champion: 2}        # of a model

`status.yaml`, beside a model, is ours: a status and a message for each version, and which system
wrote them. Another system that follows the folder has a file of its own (`tag_names`).

Every value is read as text, like a tag of MLflow: to YAML, `off` would be a boolean.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from penstock.registry_sync.sources.types import MESSAGE_TAG, OWNER_TAG, STATUS_TAG, version_order

TAGS_BYTES_MAX = 64 * 1024
STATUS_BYTES_MAX = 1024 * 1024
"""Largest such files that are read: hundreds of tags, and a thousand statuses."""

PARSED_MAX = 4096
"""Parsed files that are remembered by their text: parsing all at every poll would cost seconds."""

ALIASES = "aliases"

_HEADER = "# Written by Penstock; what it wishes to be told stands in tags.yaml.\n"


_KEYS = {STATUS_TAG: "status", MESSAGE_TAG: "message", OWNER_TAG: "owner"}
"""What our tags are called in our file; an owner is there only once it was written."""


class MalformedError(ValueError):
    """A file cannot be understood; the message says why, for the operator."""


@dataclass(frozen=True)
class Tags:
    """What a `tags.yaml` says."""

    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


@functools.lru_cache(maxsize=PARSED_MAX)
def read_tags(text: bytes) -> Tags:
    """Read a `tags.yaml`; an empty one says nothing.

    Raises:
        MalformedError: if it is not what it should be.
    """
    document = _mapping(_parsed(text, TAGS_BYTES_MAX), "the file")
    aliases = _texts(_mapping(document.pop(ALIASES, ""), ALIASES))
    return Tags(_texts(document), aliases)


@functools.lru_cache(maxsize=PARSED_MAX)
def read_statuses(text: bytes) -> Mapping[str, Mapping[str, str]]:
    """The tags of ours by version, from a `status.yaml`; none if somebody spoilt it."""
    try:
        document = _mapping(_parsed(text, STATUS_BYTES_MAX), "the file")
        rows = {version: _texts(_mapping(row, version)) for version, row in document.items()}
    except MalformedError:
        return {}
    return {
        version: {
            tag: row.get(key, "") for tag, key in _KEYS.items() if tag != OWNER_TAG or key in row
        }
        for version, row in rows.items()
    }


def write_statuses(statuses: Mapping[str, Mapping[str, str]]) -> bytes:
    """A `status.yaml` that says this; the highest version first."""
    rows = {
        int(version) if version.isdigit() else version: {
            key: statuses[version].get(tag, "")
            for tag, key in _KEYS.items()
            if tag != OWNER_TAG or tag in statuses[version]
        }
        for version in _highest_first(statuses)
    }
    text = yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=100_000)
    return (_HEADER + text).encode()


def _highest_first(versions: Iterable[str]) -> list[str]:
    return sorted(versions, key=version_order, reverse=True)


def _parsed(text: bytes, bytes_max: int) -> Any:
    if len(text) > bytes_max:
        raise MalformedError(f"it is longer than {bytes_max} bytes")
    try:
        # It makes texts, lists and mappings, and nothing else. libyaml's loader is faster, and
        # crashes the process on brackets that are nested deep enough.
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not UTF-8"
        raise MalformedError(f"{problem}{where}") from error
    except (RecursionError, ValueError) as error:
        raise MalformedError("it is no YAML that says something") from error


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is no mapping of names to values")
    return dict(value)


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise MalformedError(f"{str(name)[:60]} has a value that is no text or number")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError as error:  # written as "\ud800", which is half a character
            raise MalformedError(f"{ascii(name)[:60]} has a value that is no text") from error
    return dict(values)
