"""Which registered models a system follows (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class ModelFilter:
    """Admits models by their names and by a tag; all of them by default.

    Attributes:
        include: patterns as of file names, one of which a name must match; none: any name.
        exclude: patterns, none of which it may match.
        tag: `NAME` or `NAME=VALUE`: a tag that the registered model must have; empty: none.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tag: str = ""

    def admits_name(self, model: str) -> bool:
        """Whether a model of this name may be followed."""
        included = not self.include or any(fnmatchcase(model, each) for each in self.include)
        return included and not any(fnmatchcase(model, each) for each in self.exclude)

    def admits(self, model: str, tags: Mapping[str, str]) -> bool:
        """Whether a model is followed; `tags` are its own as the registry has them."""
        name, valued, value = self.tag.partition("=")
        tagged = not name or (name in tags and (not valued or tags[name] == value))
        return tagged and self.admits_name(model)


EVERY_MODEL = ModelFilter()
