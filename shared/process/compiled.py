"""Whether what requests pass through is compiled (`setup.py`) or interpreted."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def is_compiled() -> bool:
    """Whether this interpreter finds compiled modules; they are compiled together or not at all."""
    spec = find_spec("penstock.shared.wire.codec")
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
