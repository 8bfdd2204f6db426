"""How tags are named in the registry, and in here (pure).

Several systems may follow one registry if each has tags of its own, by their prefix. In here they
are always called `penstock.`; a source translates, so that the tags of others are never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.registry_sync.sources.types import PREFIX

DEFAULT_PREFIX = PREFIX.removesuffix(".")

PREFIX_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"
"""What a prefix may be: without a dot, lest one system's tags lie among another's."""


@dataclass(frozen=True)
class TagNames:
    """The names of one system's tags.

    Args:
        prefix: what all of them begin with, and then a dot.
    """

    prefix: str = DEFAULT_PREFIX

    def outward(self, tag: str) -> str:
        """A tag of ours as the registry has it."""
        return f"{self.prefix}.{tag.removeprefix(PREFIX)}"

    def inward(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Those of a registry's tags that are this system's, as we know them."""
        own = f"{self.prefix}."
        return {
            PREFIX + tag.removeprefix(own): text
            for tag, text in tags.items()
            if tag.startswith(own)
        }


DEFAULT_NAMES = TagNames()
