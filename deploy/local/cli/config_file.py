"""`--config FILE`: settings in a TOML file, which flags and variables win over.

What stands at the top is for every process that has such a setting, as variables are; a table
named like a command is for that process alone, and wins over the top. So one file can be read by
all of them, and by `penstock up`, which hands it on to what it starts:

    redis_url = "redis://store/0"
    [gateway]
    queue_limit = 100

A key that no process has, or not the one whose table it stands in, is a mistake.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.known_settings import SETTINGS, nearest
from penstock.deploy.local.cli.settings_flags import Defaults

VARIABLE = "PENSTOCK_CONFIG"


def read_config(path: Path, command: str) -> Defaults:
    """What the file says for a command.

    Raises:
        CommandError: if it cannot be read, or has a key that is unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"--config {path}: {error.strerror}", exit_code=2) from error
    except ValueError as error:  # no TOML, or no text
        raise CommandError(f"--config {path}: no TOML: {error}", exit_code=2) from error
    if mistakes := list(_mistakes(document)):
        raise CommandError(f"--config {path}: {'; '.join(mistakes)}", exit_code=2)
    fields = SETTINGS[command].model_fields
    top = {key: value for key, value in document.items() if key in fields and not _is_table(value)}
    section = document.get(command)
    own = section if isinstance(section, dict) else {}
    return Defaults(str(path), top | own)


def _mistakes(document: Mapping[str, Any]) -> Iterator[str]:
    anywhere = {name for settings in SETTINGS.values() for name in settings.model_fields}
    for key, value in document.items():
        if not _is_table(value):
            yield from _unknown(key, anywhere, "")
        elif key in SETTINGS:
            for inner in value:
                yield from _unknown(inner, SETTINGS[key].model_fields, f" in [{key}]")
        else:
            yield f"unknown table [{key}]{nearest(key, SETTINGS)}"


def _unknown(key: str, known: Collection[str], where: str) -> Iterator[str]:
    if key not in known:
        yield f"unknown key {key}{where}{nearest(key, known)}"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)
