"""`penstock tags [NAME]`: which tags there are, and what each means.

From the table that registry_sync reads by, so that nothing has to run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from penstock.deploy.local.cli.config_file import VARIABLE as CONFIG_VARIABLE
from penstock.deploy.local.cli.config_file import read_config
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import folded_table, one_line, table_console
from penstock.registry_sync.plan.tags.names import DEFAULT_PREFIX, PREFIX_PATTERN, TagNames
from penstock.registry_sync.plan.tags.table import TAGS, Tag

NAME_LENGTH_MAX = 80
"""Most of a name that nobody knows that is repeated in the error."""


class ShownTag(BaseModel):
    """The shape of one tag in `--json`.

    Attributes:
        on: `model`, `version` or both; a version's wins over its model's.
        values: what may be written.
        default: what holds where it is absent; empty for what Penstock writes.
        change: what a change does to what runs: `new revision`, `in place`, or empty.
        more: a document with more of it; or empty.
    """

    name: str
    on: list[str]
    written_by: str
    values: str
    default: str
    change: str
    meaning: str
    more: str


class ShownTags(BaseModel):
    """The shape of `penstock tags --json`."""

    prefix: str
    tags: list[ShownTag]


def run_tags(
    name: str | None, prefix: str | None, environ: Mapping[str, str], as_json: bool
) -> None:
    """Print all tags, or one.

    Raises:
        CommandError: if there is no such tag, or no tag can have such a prefix.
    """
    names = TagNames(_prefix_in_force(prefix, environ))
    if name is not None:
        tag = shown(find_tag(name, names), names)
        print(tag.model_dump_json(indent=2) if as_json else in_full(tag))
        return
    tags = [shown(each, names) for each in TAGS]
    if as_json:
        print(ShownTags(prefix=names.prefix, tags=tags).model_dump_json(indent=2))
    else:
        print_tags(tags, table_console())


def _prefix_in_force(prefix: str | None, environ: Mapping[str, str]) -> str:
    """The one asked for, else that of a settings file in force, else the default."""
    found: object = prefix
    if prefix is None and (config := environ.get(CONFIG_VARIABLE)):
        said = (read_config(Path(config), each).values for each in ("registry-sync", "up"))
        found = next((each["tag_prefix"] for each in said if "tag_prefix" in each), None)
    found = DEFAULT_PREFIX if found is None else str(found)
    if not re.fullmatch(PREFIX_PATTERN, found):
        raise CommandError(
            f"--tag-prefix {one_line(found[:NAME_LENGTH_MAX])!r}: a letter, then up to 31 letters, "
            "digits, _ or -",
            exit_code=2,
        )
    return found


def find_tag(name: str, names: TagNames) -> Tag:
    """The tag of that name, with the prefix or without.

    Raises:
        CommandError: naming those that are most like it.
    """
    bare = name.removeprefix(f"{names.prefix}.")
    found = next((tag for tag in TAGS if tag.name == bare), None)
    if found is not None:
        return found
    alike = difflib.get_close_matches(bare.rpartition(".")[2].lower(), [tag.name for tag in TAGS])
    hint = (
        f"did you mean {' or '.join(map(names.outward, alike))}?" if alike else "see penstock tags"
    )
    raise CommandError(f"no tag is called {one_line(name[:NAME_LENGTH_MAX])}; {hint}", exit_code=2)


def shown(tag: Tag, names: TagNames) -> ShownTag:
    """A tag for people and programs, as their system calls it."""
    return ShownTag(
        name=names.outward(tag.name),
        on=tag.on.split(", "),
        written_by=tag.writer,
        values=tag.reader.expected,
        default=tag.default,
        change=tag.change or "",
        meaning=tag.meaning.replace("`", ""),
        more=f"docs/{tag.more}" if tag.more else "",
    )


def print_tags(tags: list[ShownTag], console: Console) -> None:
    """One row for each tag."""
    table = folded_table("tag", "on", "default", "meaning")
    table.columns[0].no_wrap = True
    for tag in tags:
        default = tag.default if tag.written_by == "operator" else "(Penstock writes it)"
        table.add_row(tag.name, ", ".join(tag.on), default, tag.meaning)
    console.print(table)


def in_full(tag: ShownTag) -> str:
    """One tag in lines: its meaning, then whatever is to be said of it."""
    facts = {
        "on": " or ".join(tag.on) + ("; a version's wins" if len(tag.on) > 1 else ""),
        "written by": tag.written_by,
        "values": tag.values,
        "default": tag.default,
        "a change": tag.change,
        "more": tag.more,
    }
    lines = (f"  {fact:<12}{said}" for fact, said in facts.items() if said)
    return "\n".join((tag.name, f"  {tag.meaning}", *lines))
