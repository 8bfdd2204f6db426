"""Alerting rules against what processes expose, and docs/operations.md against the rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.recording import FOLDER, Recording, names_in_rules
from tests.unit.deploy.test_metrics_doc import gateway, sync, worker

ROOT = Path(__file__).parents[3]
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
ALL_RULES: list[dict[str, Any]] = [rule for group in RULES for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in ALL_RULES if "record" in rule}
RECORDINGS = sorted(path.stem for path in FOLDER.glob("*.yml"))

SELECTOR = re.compile(r"\b(penstock_\w+)(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+)(?:=~|!=|!~|=)"')
BY = re.compile(r"\bby \((.*?)\)")

SECTION = re.compile(r"^## Alerts\n(.*?)^## ", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^### (\w+)\n\nMeans: .+?\nFirst: .+?\nEnds: .+?\n\n", re.MULTILINE | re.DOTALL)


def alerts_section() -> str:
    found = SECTION.search((ROOT / "docs" / "operations.md").read_text())
    assert found is not None
    return found[1]


def exposed_labels() -> dict[str, frozenset[str]]:
    """Labels of every sample that the processes expose, by its name."""
    return {
        sample.name: frozenset(sample.labels)
        for registry in (gateway(), worker(), sync())
        for family in registry.collect()
        for sample in family.samples
    }


def labels_of_result(expression: str) -> set[str]:
    """Labels that an expression's result has, as its aggregations tell."""
    return {label for by in BY.findall(expression) for label in re.split(r",\s*", by)}


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_what_processes_expose(rule: dict[str, Any]) -> None:
    exposed, expression = exposed_labels(), rule["expr"]
    available: set[str] = set()
    for name in re.findall(r"penstock:\w+:\w+", expression):
        available |= labels_of_result(RECORDED[name])
    for name, matchers in SELECTOR.findall(expression):
        assert name in exposed
        assert set(MATCHER.findall(matchers)) <= exposed[name], name
        available |= exposed[name]
    assert labels_of_result(expression) <= available


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_only_what_it_has(rule: dict[str, Any]) -> None:
    said = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    of_targets = {"instance"} if rule["expr"].startswith("up{") else set()
    assert said <= labels_of_result(rule["expr"]) | of_targets


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_names_its_section(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    section = alerts_section()
    headings = re.findall(r"^### (.+)$", section, re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
    assert ENTRY.findall(section) == headings  # each says what it means, where to look, its end


def test_the_sections_name_metrics_that_there_are() -> None:
    exposed, section = exposed_labels(), alerts_section()
    named = SELECTOR.findall(section)
    assert named
    for name, matchers in named:
        assert name in exposed
        assert set(MATCHER.findall(matchers)) <= exposed[name]
    for name in re.findall(r"penstock:\w+:\w+", section):
        assert name in RECORDED


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_has_names_and_labels_of_today(name: str) -> None:
    exposed = exposed_labels()
    for sample, found in Recording.read(name).labels().items():
        if sample != "up":
            assert found == {exposed[sample]}, f"{sample}: record {name} anew"


def test_the_recordings_have_all_that_rules_read() -> None:
    recorded = {sample for name in RECORDINGS for sample in Recording.read(name).labels()}
    assert names_in_rules() <= recorded
