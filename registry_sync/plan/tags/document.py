"""The tables of docs/tags.md, made from the table of tags (pure); a test compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES
from penstock.registry_sync.plan.tags.table import TAGS, Tag, Writer

BEGIN = "<!-- made from registry_sync/plan/tags/table.py -->"
END = "<!-- end of what is made -->"


def tag_tables() -> str:
    """Markdown from `BEGIN` to `END`: what operators write, then what Penstock writes."""
    asked = [_asked(tag) for tag in TAGS if tag.writer is Writer.OPERATOR]
    told = [_told(tag) for tag in TAGS if tag.writer is Writer.PENSTOCK]
    parts = (
        BEGIN,
        *_table(("tag", "on", "values", "default", "a change", "meaning"), asked),
        "",
        "Penstock writes:",
        "",
        *_table(("tag", "on", "values", "meaning"), told),
        END,
    )
    return "\n".join(parts)


def _asked(tag: Tag) -> tuple[str, ...]:
    change = tag.change or ""
    return (_name(tag), tag.on, tag.reader.expected, tag.default, change, _meaning(tag))


def _told(tag: Tag) -> tuple[str, ...]:
    return (_name(tag), tag.on, tag.reader.expected, _meaning(tag))


def _name(tag: Tag) -> str:
    return f"`{DEFAULT_NAMES.outward(tag.name)}`"


def _meaning(tag: Tag) -> str:
    return f"{tag.meaning} [{tag.more}]({tag.more})" if tag.more else tag.meaning


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
