"""Alerts fire when they should, and then only: `promtool` on series recorded from real faults.

`tests.e2e.alert_faults` has the faults, and makes the recordings that are committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.alert_faults import FAULTS, Fires, record_side_by_side
from tests.e2e.prometheus import RULES, needs_prometheus, promtool
from tests.e2e.recording import INTERVAL_S, Recording, promtool_test

HOURS = "2h"
"""Longer than any recording."""

LEADER = {"series": "penstock_sync_leader", "values": "1+0x100"}
MADE_BY_HAND = {
    "hanging_call": (
        {"series": "penstock_sync_hanging_calls", "values": "0+0x3 1+0x27 0+0x68"},
        Fires("PenstockSyncHanging", 300, 300, 15),
    ),
    "unforeseen_errors": (
        {"series": "penstock_sync_faults_total", "values": "0+0x3 1+0x27 2+0x68"},
        Fires("PenstockSyncFault", 0, 0, 900),
    ),
}
"""From 60 s to 480 s. A mount that hangs takes a file system of the kernel's, and an error that
nobody foresaw cannot be made on purpose."""


def check(expression: str, at_s: float, samples: list[tuple[str, int]]) -> dict[str, Any]:
    """What an expression gives at the next scrape."""
    scrape_s = -(-int(at_s) // INTERVAL_S) * INTERVAL_S
    found = [{"labels": labels, "value": value} for labels, value in samples]
    return {"expr": expression, "eval_time": f"{scrape_s}s", "exp_samples": found}


def firing(fires: Fires, at_s: float, *, expected: bool) -> dict[str, Any]:
    """Whether an alert fires, with exactly these labels."""
    labels = {"alertname": fires.alert, **fires.labels}
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    expression = (
        "count by (alertname, model, version, phase) "
        f'(ALERTS{{alertstate="firing",alertname="{fires.alert}"}})'
    )
    return check(expression, at_s, [(f"{{{shown}}}", 1)] if expected else [])


def checks_of(recording: Recording, all_fires: tuple[Fires, ...]) -> list[dict[str, Any]]:
    """When each alert fires and when not, and that no other ever does."""
    checks = []
    for fires in all_fires:
        began_s, ended_s = recording.fault_from_s, recording.fault_to_s
        early_s = began_s + fires.not_before_s - INTERVAL_S
        assert ended_s + fires.over_within_s <= recording.length_s, "the recording is too short"
        checks += [
            firing(fires, max(early_s, 0), expected=False),
            firing(fires, began_s + fires.within_s, expected=True),
            firing(fires, ended_s - INTERVAL_S, expected=True),
            firing(fires, ended_s + fires.over_within_s, expected=False),
        ]
    ever = f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{HOURS}]))'
    named = [(f'{{alertname="{fires.alert}"}}', 1) for fires in all_fires]
    return [*checks, check(ever, recording.length_s, named)]


def prove(recording: Recording, fires: tuple[Fires, ...], folder: Path) -> None:
    """Have promtool evaluate the rules that we ship over a recording."""
    test = folder / "test.yml"
    test.write_text(yaml.safe_dump(promtool_test(recording, checks_of(recording, fires))))
    assert "SUCCESS" in promtool("test", "rules", str(test))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fires_its_alerts_and_no_other(name: str, tmp_path: Path) -> None:
    needs_prometheus()
    prove(Recording.read(name), FAULTS[name].fires, tmp_path)


@pytest.mark.parametrize(
    ("model", "version", "said"),
    [
        ("moody", "2", "Version 2 of moody is failed"),
        ("", "", "More versions than metrics name are failed"),
    ],
)
def test_an_alert_says_which_version_failed(
    model: str, version: str, said: str, tmp_path: Path
) -> None:
    needs_prometheus()
    labels = {"model": model, "version": version, "phase": "failed"}
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    series = [{"series": f"penstock_sync_versions{{{shown}}}", "values": "1+0x30"}]
    document = promtool_test(Recording(0, 0, 0, series), [])
    alert = {
        "exp_labels": {name: value for name, value in labels.items() if value}
        | {"severity": "warning"},
        "exp_annotations": {
            "summary": f"{said}; `penstock status` says why, and what served goes on.",
            "runbook": "docs/operations.md#penstockversionfailed",
        },
    }
    document["tests"][0]["alert_rule_test"] = [
        {"eval_time": "6m", "alertname": "PenstockVersionFailed", "exp_alerts": [alert]}
    ]
    test = tmp_path / "test.yml"
    test.write_text(yaml.safe_dump(document))
    assert "SUCCESS" in promtool("test", "rules", str(test))


def test_every_alert_is_proven() -> None:
    rules = yaml.safe_load((RULES / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule}
    recorded = {fires.alert for fault in FAULTS.values() for fires in fault.fires}
    assert recorded | {fires.alert for _, fires in MADE_BY_HAND.values()} == alerts


@pytest.mark.parametrize("name", MADE_BY_HAND)
def test_what_cannot_be_recorded_fires_its_alert(name: str, tmp_path: Path) -> None:
    needs_prometheus()
    series, fires = MADE_BY_HAND[name]
    prove(Recording(60, 480, 1500, [LEADER, series]), (fires,), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_faults_of_today_fire_the_same_alerts(tmp_path: Path) -> None:
    needs_prometheus()
    record_side_by_side(list(FAULTS), tmp_path)  # 25 minutes: the longest of them
    for name, fault in FAULTS.items():
        prove(Recording.read(name, tmp_path), fault.fires, tmp_path)
