"""Alerts fire when they should, and then only: `promtool` on series recorded from real faults.

Recordings are made anew by `pytest -m slow tests/e2e/test_alerts.py`, in the time that the faults
take (6 to 20 minutes each), and are to be looked at and committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.alert_faults import FAULTS, Fires, record
from tests.e2e.prometheus import needs_prometheus, promtool
from tests.e2e.recording import INTERVAL_S, Recording, promtool_test

HOURS = "2h"
"""Longer than any recording."""


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


def prove(recording: Recording, name: str, folder: Path) -> None:
    """Have promtool evaluate the rules that we ship over a recording."""
    test = folder / f"{name}.yml"
    test.write_text(
        yaml.safe_dump(promtool_test(recording, checks_of(recording, FAULTS[name].fires)))
    )
    assert "SUCCESS" in promtool("test", "rules", str(test))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fires_its_alerts_and_no_other(name: str, tmp_path: Path) -> None:
    needs_prometheus()
    prove(Recording.read(name), name, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_recorded_anew(name: str, tmp_path: Path) -> None:
    needs_prometheus()
    recording = record(FAULTS[name], tmp_path)
    recording.write(name)
    prove(recording, name, tmp_path)
