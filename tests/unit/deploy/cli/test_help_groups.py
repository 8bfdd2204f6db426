"""Help in groups: nothing is left out, and what is met most comes first."""

from __future__ import annotations

import re

import pytest

from penstock.deploy.local.cli.help_groups import (
    SETTING_GROUPS,
    CommandGroup,
    OptionGroup,
    group_of,
    in_order_of_groups,
)
from penstock.deploy.local.cli.known_settings import SETTINGS
from penstock.deploy.local.cli.main import app
from penstock.deploy.local.cli.settings_flags import flag_of
from tests.support.commands import penstock

pytestmark = pytest.mark.costly

ALL_SETTINGS = {name for each in SETTINGS.values() for name in each.model_fields} | {"config"}


def headings(text: str) -> list[str]:
    return re.findall(r"^(\S.*):$", text, re.MULTILINE)


def test_every_setting_has_a_group_and_every_name_in_a_group_is_a_setting() -> None:
    assert [name for name in sorted(ALL_SETTINGS) if group_of(name) is None] == []
    plain = {each for patterns in SETTING_GROUPS.values() for each in patterns if "*" not in each}
    assert plain - ALL_SETTINGS == set()


def test_settings_are_in_the_order_of_groups_and_of_what_these_name() -> None:
    names = ["log_level", "job_lease_s", "odd", "port", "redis_url", "jobs_max", "webhook_secrets"]
    assert in_order_of_groups(names) == [
        *("odd", "redis_url", "port", "webhook_secrets", "jobs_max", "job_lease_s", "log_level")
    ]


@pytest.mark.parametrize("command", sorted(SETTINGS))
def test_a_process_has_its_settings_by_groups_each_once(command: str) -> None:
    text = penstock(command, "--help").stdout
    first, others, *rest = headings(text)
    assert (first, others) == (OptionGroup.MOST_USED, "Options")
    assert rest == [group for group in OptionGroup if group in rest]
    for name in SETTINGS[command].model_fields:
        assert len(re.findall(rf"^  {flag_of(name)}\b(?!-)", text, re.MULTILINE)) == 1, name


def test_commands_are_in_groups_that_all_have() -> None:
    assert headings(penstock("--help").stdout) == [*CommandGroup, "Options"]
    panels = {each.name: each.rich_help_panel for each in app.registered_commands}
    panels |= {each.name: each.rich_help_panel for each in app.registered_groups}
    assert [name for name, panel in panels.items() if panel not in set(CommandGroup)] == []


def test_a_client_has_what_it_does_before_how_it_finds_its_system() -> None:
    found = headings(penstock("submit", "--help").stdout)
    assert found == [
        *("Arguments", "Options", OptionGroup.JOB, OptionGroup.WEBHOOKS, OptionGroup.SYSTEM)
    ]
