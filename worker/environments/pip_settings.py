"""How pip is set up here, and how uv is told the same.

Operators say by pip's configuration (`pip.conf`, `PIP_*`) where packages come from, and uv reads
none of it. Nothing of it may be passed over: without a private index, uv would install what others
published under the same names. So each setting is either translated, or known to change nothing
here, or reason enough to have pip do it. The same goes for options in requirements. Pure but for
asking which folders exist.
"""

from __future__ import annotations

import math
from ast import literal_eval
from collections.abc import Iterable, Mapping
from pathlib import Path

CANARY = "no-input"
"""A setting that the caller sets by PIP_NO_INPUT, so as to know that pip listed what it has."""

SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration, what `pip install` heeds; the last that has a setting wins."""

WITHOUT_EFFECT = frozenset(
    {
        *("disable-pip-version-check", "no-python-version-warning", "root-user-action"),
        *("no-warn-script-location", "break-system-packages", "require-virtualenv"),
        *("no-input", "progress-bar", "quiet", "verbose", "no-color", "cache-dir", "config-file"),
    }
)
"""They change what pip prints, or where it may install, which here is a fresh environment."""

OPTIONS_IN_REQUIREMENTS = frozenset(
    {"-c", "--constraint", "-f", "--find-links", "--extra-index-url", "--no-index"}
)
"""Those that uv takes as pip does; others it would refuse or, worse, pass over."""

OWN_VARIABLES = (
    *("UV_CACHE_DIR", "UV_NO_CACHE", "UV_LINK_MODE", "UV_COMPILE_BYTECODE", "UV_CONCURRENT_"),
)
"""Beginnings of the variables for uv that are left to it: how it installs, and never what."""


class NotForUvError(Exception):
    """Only pip does this as it was asked for; says why."""


def pip_settings(listing: str) -> dict[str, str]:
    """The settings of `pip install` in the output of `pip config list`.

    Raises:
        NotForUvError: if it does not seem to list all.
    """
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in sections and value not in ("''", '""'):  # pip passes those over, too
            sections[section][key] = str(literal_eval(value))
    settings = {key: value for each in sections.values() for key, value in each.items()}
    if settings.pop(CANARY, None) is None:
        raise NotForUvError("pip does not list its configuration")
    return settings


def uv_variables(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Variables by which uv does what pip would with these settings.

    They are no arguments, since URLs of indexes hold passwords.

    Args:
        folder: where pip would run, for relative paths.

    Raises:
        NotForUvError: if uv cannot be told one of them.
    """
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # the best version of all indexes
    for name, value in settings.items():
        if name not in WITHOUT_EFFECT:
            variables |= _translated(name, value, folder)
    return variables


def no_index(settings: Mapping[str, str]) -> bool:
    """Whether no index is to be asked."""
    return _is_set(settings.get("no-index", "0"))


def check_requirements(texts: Iterable[str]) -> None:
    """Look for options in requirements that uv does not take as pip does.

    Raises:
        NotForUvError: if there is one.
    """
    for line in "\n".join(texts).splitlines():
        words = line.partition(" #")[0].split()
        if not words or words[0].startswith("#"):
            continue
        if any("http://" in word for word in words):
            raise NotForUvError("an index without TLS, which pip may not trust")
        for option in (word.partition("=")[0] for word in words if word.startswith("-")):
            if option not in OPTIONS_IN_REQUIREMENTS:
                raise NotForUvError(f"option {option} in the requirements")


def _translated(name: str, value: str, folder: Path) -> dict[str, str]:
    match name:
        case "index-url":
            return {"UV_DEFAULT_INDEX": _trusted(value)}
        case "extra-index-url":
            return {"UV_INDEX": _trusted(value)}
        case "find-links":
            return {"UV_FIND_LINKS": ",".join(_places(_trusted(value), folder))}
        case "constraint":
            return {"UV_CONSTRAINT": value, "UV_BUILD_CONSTRAINT": value}
        case "trusted-host":
            return {"UV_INSECURE_HOST": value}
        case "cert":
            return {"SSL_CERT_FILE": value}
        case "proxy":
            return {"HTTP_PROXY": value, "HTTPS_PROXY": value}
        case "timeout" | "default-timeout":
            return {"UV_HTTP_TIMEOUT": _whole_seconds(value)}
        case "no-cache-dir":  # whatever its value, for pip's historical reasons
            return {"UV_NO_CACHE": "1"}
        case "no-index":
            return {}
        case "pre":
            return {"UV_PRERELEASE": "allow"} if _is_set(value) else {}
    raise NotForUvError(f"pip's setting {name}")


def _trusted(urls: str) -> str:
    if "http://" in urls:
        raise NotForUvError("an index without TLS, which pip may not trust")
    return urls


def _places(value: str, folder: Path) -> list[str]:
    """Without the folders that are not there: pip passes them over, and uv fails."""
    return [
        each
        for each in value.split()
        if "://" in each or (folder / Path(each).expanduser()).exists()
    ]


def _whole_seconds(value: str) -> str:
    try:
        return str(math.ceil(float(value)))
    except (ValueError, OverflowError):
        raise NotForUvError("pip's setting timeout") from None


def _is_set(value: str) -> bool:
    return value.lower() in ("1", "y", "yes", "t", "true", "on")
