"""`penstock tags`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.deploy.local.cli.completion import names_of_tags
from penstock.registry_sync.plan.tags.table import TAGS
from tests.e2e.system import own_environment

pytestmark = pytest.mark.costly

HEAVY = ("mlflow", "redis", "zmq", "torch", "onnxruntime", "fastapi", "httpx", "sklearn", "pandas")


def tags(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs where there is no system."""
    return subprocess.run(
        [sys.executable, "-m", "penstock.deploy.local", "tags", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**own_environment(), **variables},
    )


def test_all_tags_are_printed_one_a_line() -> None:
    done = tags()
    assert (done.returncode, done.stderr) == (0, "")
    lines = [
        line.strip() for line in done.stdout.splitlines() if line.strip().startswith("penstock.")
    ]
    assert [line.split()[0] for line in lines] == [f"penstock.{tag.name}" for tag in TAGS]
    (replicas,) = (line for line in lines if line.startswith("penstock.replicas "))
    assert replicas.split("  ")[-1].strip() == "Replicas in all, or each: one per matching worker."
    assert "model, version" in replicas


def test_the_prefix_in_force_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text('[registry-sync]\ntag_prefix = "ours"\n')
    by_file = tags("--json", PENSTOCK_CONFIG=str(config))
    assert json.loads(by_file.stdout)["prefix"] == "ours"
    by_variable = tags("hedge", PENSTOCK_CONFIG=str(config), PENSTOCK_TAG_PREFIX="staging")
    assert by_variable.stdout.startswith("staging.hedge\n")
    by_flag = tags("hedge", "--tag-prefix", "blue", PENSTOCK_TAG_PREFIX="staging")
    assert by_flag.stdout.startswith("blue.hedge\n")


@pytest.mark.parametrize("prefix", ["a.b", "1", "", "x\n"])
def test_a_prefix_that_no_system_can_have_is_a_mistake(prefix: str) -> None:
    done = tags("--tag-prefix", prefix)
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: --tag-prefix ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["timeout_ms", "penstock.timeout_ms"])
def test_one_tag_is_shown_in_full_with_its_prefix_or_without(name: str) -> None:
    done = tags(name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "penstock.timeout_ms",
        "  Deadline of a call that states none.",
        "  on          model or version; a version's wins",
        "  written by  operator",
        "  values      milliseconds from 1 to 86400000",
        "  default     gateway --default-timeout-s",
        "  a change    in place",
    ]


def test_json_is_one_document() -> None:
    document = json.loads(tags("--json").stdout)
    assert [each["name"] for each in document["tags"]] == [f"penstock.{tag.name}" for tag in TAGS]
    one = json.loads(tags("env", "--json").stdout)
    assert one in document["tags"]
    assert one == {
        "name": "penstock.env",
        "on": ["model", "version"],
        "written_by": "operator",
        "values": "inherit or isolated",
        "default": "inherit",
        "change": "new revision",
        "meaning": "inherit: the worker's packages; isolated: an environment from the model's own "
        "requirements.txt.",
        "more": "",
    }
    assert json.loads(tags("status", "--json").stdout)["written_by"] == "Penstock"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("penstock.replica", "did you mean penstock.replicas or penstock.job_replicas?"),
        ("Hedge", "did you mean penstock.hedge"),
        ("staging.swap", "did you mean penstock.swap or "),
        ("qqq", "see penstock tags"),
        ("x\x1b[2J" + "y" * 500, "see penstock tags"),
    ],
)
def test_an_unknown_name_is_a_mistake_with_those_most_like_it(name: str, hint: str) -> None:
    done = tags(name)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("penstock: no tag is called ")
    assert hint in line
    assert "\x1b" not in line
    assert len(line) < 250


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, os; from penstock.deploy.local.commands.tags import run_tags; "
        f"run_tags(None, None, {{}}, True); print([m for m in {HEAVY!r} if m in sys.modules], "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_names_are_completed() -> None:
    assert names_of_tags("job_") == ["job_replicas", "job_concurrency", "job_slice_ms"]
    completed = {"_PENSTOCK_COMPLETE": "complete_bash", "COMP_WORDS": "penstock tags hed"}
    done = tags(**completed, COMP_CWORD="2")
    assert done.stdout.split() == ["hedge", "hedge_budget"]
