"""The table of tags: it is all there is, it reads what it says, and the documents have it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.local.cli.known_settings import SETTINGS as PROCESSES
from penstock.deploy.local.cli.settings_flags import flag_of
from penstock.registry_sync.plan.roles import roles_of
from penstock.registry_sync.plan.tags.document import BEGIN, END, tag_tables
from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.plan.tags.readers import Device, Either, Integer, Number, Reader, Words
from penstock.registry_sync.plan.tags.settings import ServingSettings, read_settings
from penstock.registry_sync.plan.tags.table import SETTINGS, TAGS, Change, Tag, Writer
from penstock.registry_sync.plan.wishes import FIRST_SETTINGS, LATER_SETTINGS
from penstock.registry_sync.sources.types import OWN_TAGS, PREFIX, ROLE_TAG
from penstock.shared.contracts.deployment import InPlaceSettings, ReplicaSettings
from tests.unit.registry_sync.worlds import observed

ROOT = Path(__file__).parents[5]
NAMES = TagNames("staging")
DEFAULTS = ServingSettings()

settings_tags = pytest.mark.parametrize("tag", SETTINGS, ids=lambda tag: tag.name)


def with_space_and_capitals(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text, text.upper(), f" {text.title()} ", f"{text}\n"])


def good(reader: Reader) -> st.SearchStrategy[tuple[str, object]]:
    """Texts that are to be accepted, each with its value, by what a reader says of itself."""
    match reader:
        case Words(words=words, unset=unset):
            chosen = st.sampled_from([(word, None if word == unset else word) for word in words])
        case Either(words=words, none=none, number=number):
            chosen = st.sampled_from([(word, None if word == none else word) for word in words])
            return chosen.flatmap(spelt) | good(number)
        case Integer(low=low, high=high):
            return st.integers(low, high).map(lambda value: (str(value), value))
        case Number(low=low, high=high, above=above):
            floats = st.floats(low, high, exclude_min=above)
            return floats.map(lambda value: (repr(value), value))
        case Device():
            gpus = st.integers(0, 999).map(lambda index: f"cuda:{index}")
            chosen = (st.sampled_from(["auto", "cpu"]) | gpus).map(lambda each: (each, each))
        case _:
            raise AssertionError(f"how is {reader} tested?")
    return chosen.flatmap(spelt)


def spelt(pair: tuple[str, object]) -> st.SearchStrategy[tuple[str, object]]:
    return with_space_and_capitals(pair[0]).map(lambda text: (text, pair[1]))


def bad(reader: Reader) -> st.SearchStrategy[str]:
    """Texts that are to be refused."""
    others = st.sampled_from(
        ["", "nan", "inf", "-1", "5%", "1 s", "sometimes", "cuda:", "cuda:1234"]
    )
    match reader:
        case Either(number=number):
            return bad(number)
        case Integer(low=low, high=high):
            out = st.integers(max_value=low - 1) | st.integers(min_value=high + 1)
            return others | out.map(str) | st.just("1e3") | st.just("٣")
        case Number(low=low, high=high):
            out_of_it = st.floats(max_value=low, exclude_max=True) | st.floats(
                min_value=high, exclude_min=True
            )
            return others | out_of_it.map(repr)
    return others


@settings_tags
@given(data=st.data())
def test_what_is_accepted_gives_the_field(tag: Tag, data: st.DataObject) -> None:
    text, value = data.draw(good(tag.reader))
    settings, problems = read_settings({PREFIX + tag.name: text}, {}, DEFAULTS, None, NAMES)
    assert problems == ()
    assert settings == DEFAULTS.model_copy(update={tag.field: value})
    assert type(getattr(settings, tag.field)) is type(value)


@settings_tags
@given(data=st.data())
def test_what_is_not_names_the_tag_and_keeps_what_runs(tag: Tag, data: st.DataObject) -> None:
    text = data.draw(bad(tag.reader))
    _, value = data.draw(good(tag.reader))
    running = DEFAULTS.model_copy(update={tag.field: value})
    settings, (problem,) = read_settings({PREFIX + tag.name: text}, {}, DEFAULTS, running, NAMES)
    assert settings == running
    assert problem.startswith(f"staging.{tag.name} is ")
    assert f"expected {tag.reader.expected}; " in problem
    assert problem.endswith(f"{tag.said(value)} stays")


@settings_tags
@given(text=st.text(max_size=12))
def test_any_text_gives_a_value_or_an_error_that_names_the_tag(tag: Tag, text: str) -> None:
    settings, problems = read_settings({}, {PREFIX + tag.name: text}, DEFAULTS, None, NAMES)
    value = getattr(settings, tag.field)
    if not problems:
        again = tag.said(value) if value is not None else text.strip()
        assert read_settings({PREFIX + tag.name: again}, {}, DEFAULTS, None)[0] == settings
        assert not isinstance(value, float) or math.isfinite(value)
    else:
        assert settings == DEFAULTS
        assert problems[0].startswith(f"staging.{tag.name} is ")


@given(role=st.text(max_size=8))
def test_a_role_is_one_of_its_words_or_its_error_names_the_tag(role: str) -> None:
    (tag,) = (each for each in TAGS if PREFIX + each.name == ROLE_TAG)
    roles = roles_of(observed(versions={"1": {ROLE_TAG: role}}), (), names=NAMES)
    try:
        read = tag.reader.read(role.strip())
    except ValueError:
        assert not role.strip() or roles.unknown["1"].startswith("staging.role is ")
    else:
        assert (roles.stable == "1", "1" in roles.off) == (read == "stable", read == "off")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_batch_size", "a number from 1 to 65536"),
        ("max_queue_delay_ms", "milliseconds up to 60000"),
        ("timeout_ms", "milliseconds from 1 to 86400000"),
        ("replicas", "a number from 1 to 1024, or each"),
        ("device", "auto, cpu or cuda:N"),
        ("threads", "a number from 1 to 1024, or auto"),
        ("env", "inherit or isolated"),
        ("hedge", "auto, off, or milliseconds above 0, up to 86400000"),
        ("hedge_budget", "a share from 0 to 1"),
        ("jobs", "shared, only or off"),
        ("drain_timeout_s", "seconds up to 86400"),
    ],
)
def test_the_words_of_errors(name: str, expected: str) -> None:
    _, (problem,) = read_settings({PREFIX + name: "?"}, {}, DEFAULTS, None)
    assert problem.startswith(f"penstock.{name} is '?', expected {expected}; ")


def test_each_field_of_the_contract_has_one_row_and_each_row_a_field() -> None:
    fields = [*ReplicaSettings.model_fields, *InPlaceSettings.model_fields]
    assert sorted(tag.field for tag in SETTINGS) == sorted(set(fields) - {"trial"})
    rest = {PREFIX + tag.name for tag in TAGS if not tag.field}
    assert rest == OWN_TAGS | {ROLE_TAG}
    assert {PREFIX + tag.name for tag in TAGS if tag.writer is Writer.PENSTOCK} == OWN_TAGS
    assert len({tag.name for tag in TAGS}) == len(TAGS)


def test_what_replicas_are_told_makes_a_new_revision_and_only_that() -> None:
    changes = {tag.field: tag.change for tag in SETTINGS}
    assert {field for field, change in changes.items() if change is Change.IN_PLACE} == set(
        InPlaceSettings.model_fields
    )
    assert not [tag.name for tag in SETTINGS if tag.places and tag.change is not Change.IN_PLACE]


def test_a_setting_that_came_later_is_unset_by_default() -> None:
    """Else the upgrade that brings it swaps every model."""
    assert set(ReplicaSettings.model_fields) >= FIRST_SETTINGS
    defaults = {name: ReplicaSettings.model_fields[name].default for name in LATER_SETTINGS}
    assert defaults == dict.fromkeys(LATER_SETTINGS)


def test_a_default_that_is_a_setting_is_one_of_that_process() -> None:
    for command, flag in (tag.setting.split() for tag in TAGS if tag.setting):
        assert flag in {flag_of(name) for name in PROCESSES[command].model_fields}


def test_every_meaning_is_a_sentence_and_leads_to_a_document_that_is_there() -> None:
    for tag in TAGS:
        assert re.fullmatch(r"[`A-Z].+\.", tag.meaning), tag.name
        assert not tag.more or (ROOT / "docs" / tag.more).is_file(), tag.name


def test_the_document_has_the_table() -> None:
    text = (ROOT / "docs" / "tags.md").read_text()
    committed = text[text.index(BEGIN) : text.index(END) + len(END)]
    made = tag_tables()
    assert committed == made, f"docs/tags.md should have:\n\n{made}\n"


def test_the_readme_names_tags_that_there_are_with_their_defaults() -> None:
    rows = re.findall(
        r"^\| `penstock\.(\w+)` \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.M
    )
    defaults = {tag.name: tag.default for tag in TAGS}
    assert [row for row in rows if row[0] != "role" and defaults[row[0]] != row[1]] == []
    assert len(rows) >= 4
