"""Roles and settings as operators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.registry_sync.plan.roles import roles_of
from penstock.registry_sync.plan.tags.settings import (
    ServingSettings,
    deployed_settings,
    read_settings,
)
from penstock.registry_sync.plan.wishes import LATER_SETTINGS, revision_id, revision_of
from penstock.registry_sync.plan.world import Policy
from penstock.shared.contracts.deployment import ReplicaSettings, RevisionDeployment
from tests.unit.registry_sync.worlds import OFF, STABLE, manifest_for, observed

ALIASES = ("production", "champion")
DEFAULTS = ServingSettings()


@pytest.mark.parametrize(
    ("versions", "aliases", "stable", "superseded"),
    [
        ({"1": STABLE}, {}, "1", set()),
        ({"1": STABLE, "2": STABLE}, {}, "2", {"1"}),
        ({"2": STABLE, "10": STABLE}, {}, "10", {"2"}),
        ({"1": STABLE, "2": STABLE}, {"champion": "1"}, "1", {"2"}),
        ({"1": {}, "2": {}}, {"champion": "1", "production": "2"}, "2", {"1"}),
        ({"1": {}, "2": OFF}, {"champion": "1", "production": "2"}, "1", set()),
        ({"1": STABLE, "2": OFF}, {"production": "2"}, "1", set()),
        ({"1": OFF}, {"production": "1"}, None, set()),
        ({"1": {}}, {"candidate": "1"}, None, set()),
        ({"1": STABLE}, {"production": "7"}, "1", set()),
        ({"1": {"penstock.role": " Stable "}}, {}, "1", set()),
        ({"1": {"penstock.role": "staple"}}, {"production": "1"}, "1", set()),
        ({}, {}, None, set()),
    ],
)
def test_precedence(
    versions: dict[str, dict[str, str]],
    aliases: dict[str, str],
    stable: str | None,
    superseded: set[str],
) -> None:
    roles = roles_of(observed(versions=versions, aliases=aliases), ALIASES)
    assert roles.stable == stable
    assert set(roles.superseded) == superseded


def test_an_unknown_role_is_reported() -> None:
    roles = roles_of(observed(versions={"3": {"penstock.role": "staple"}}), ALIASES)
    assert "'staple'" in roles.unknown["3"]
    assert roles.stable is None


def test_version_tags_override_model_tags() -> None:
    settings, problems = read_settings(
        {"penstock.threads": "2", "penstock.replicas": "each", "team": "x"},
        {"penstock.threads": "4", "penstock.role": "stable", "penstock.status": "loading"},
        DEFAULTS,
        None,
    )
    assert settings == ServingSettings(threads=4, replicas="each")
    assert problems == ()


@pytest.mark.parametrize(
    ("tag", "text", "field", "value"),
    [
        ("max_batch_size", "64", "max_batch_size", 64),
        ("max_queue_delay_ms", "2.5", "max_queue_delay_ms", 2.5),
        ("timeout_ms", "1500", "timeout_ms", 1500.0),
        ("replicas", " 3 ", "replicas", 3),
        ("device", "CUDA:1", "device", "cuda:1"),
        ("threads", "auto", "threads", None),
        ("swap", "replace", "swap", "replace"),
        ("queue_timeout_ms", "250", "queue_timeout_ms", 250.0),
        ("execution_timeout_ms", "1e3", "execution_timeout_ms", 1000.0),
        ("hedge", "Auto", "hedge", "auto"),
        ("hedge", "off", "hedge", "off"),
        ("hedge", "0.5", "hedge", 0.5),
        ("hedge", "86400000", "hedge", 86_400_000.0),
        ("hedge_budget", "0", "hedge_budget", 0.0),
        ("hedge_budget", "1", "hedge_budget", 1.0),
        ("jobs", "Only", "jobs", "only"),
        ("jobs", "off", "jobs", "off"),
        ("job_replicas", "2", "job_replicas", 2),
        ("job_concurrency", "8", "job_concurrency", 8),
        ("job_slice_ms", "2.5", "job_slice_ms", 2.5),
        ("drain_timeout_s", "0", "drain_timeout_s", 0.0),
        ("drain_timeout_s", "90", "drain_timeout_s", 90.0),
    ],
)
def test_good_values(tag: str, text: str, field: str, value: object) -> None:
    settings, problems = read_settings({f"penstock.{tag}": text}, {}, DEFAULTS, None)
    assert getattr(settings, field) == value
    assert problems == ()


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("max_batch_size", "0"),
        ("max_batch_size", "1e3"),
        ("max_batch_size", "٣"),
        ("max_queue_delay_ms", "-1"),
        ("max_queue_delay_ms", "nan"),
        ("timeout_ms", "inf"),
        ("replicas", "0"),
        ("replicas", "all"),
        ("device", "gpu"),
        ("threads", ""),
        ("swap", "blue-green"),
        ("env", "docker"),
        ("queue_timeout_ms", "0"),
        ("execution_timeout_ms", "nan"),
        ("execution_timeout_ms", "1 s"),
        ("hedge", "on"),
        ("hedge", "0"),
        ("hedge", "-1"),
        ("hedge", "inf"),
        ("hedge", "86400001"),
        ("hedge_budget", "5%"),
        ("hedge_budget", "1.5"),
        ("hedge_budget", "nan"),
        ("jobs", "on"),
        ("jobs", "both"),
        ("job_replicas", "0"),
        ("job_replicas", "each"),
        ("job_concurrency", "0"),
        ("job_slice_ms", "0"),
        ("drain_timeout_s", "-1"),
        ("drain_timeout_s", "inf"),
    ],
)
def test_bad_values_keep_what_runs(tag: str, text: str) -> None:
    running = ServingSettings(
        max_batch_size=7,
        max_queue_delay_ms=7.0,
        timeout_ms=7.0,
        replicas=7,
        device="cuda:7",
        threads=7,
        environment="isolated",
        swap="replace",
        queue_timeout_ms=7.0,
        execution_timeout_ms=7.0,
        hedge="off",
        hedge_budget=0.7,
        jobs="only",
        job_replicas=7,
        job_concurrency=7,
        job_slice_ms=7.0,
        drain_timeout_s=7.0,
    )
    settings, problems = read_settings({f"penstock.{tag}": text}, {}, DEFAULTS, running)
    field = {"env": "environment"}.get(tag, tag)
    assert getattr(settings, field) == getattr(running, field)
    assert len(problems) == 1
    assert f"penstock.{tag} is {text!r}" in problems[0]
    settings, _ = read_settings({f"penstock.{tag}": text}, {}, DEFAULTS, None)
    assert settings == DEFAULTS


def test_a_tag_that_is_none_of_ours_is_reported() -> None:
    settings, problems = read_settings({"penstock.max_batchsize": "8"}, {}, DEFAULTS, None)
    assert settings == DEFAULTS
    assert problems == ("penstock.max_batchsize is no tag of Penstock",)


def test_an_environment_of_its_own_makes_another_replica() -> None:
    settings, problems = read_settings({"penstock.env": "Isolated"}, {}, DEFAULTS, None)
    assert (settings.replica.environment, problems) == ("isolated", ())
    assert DEFAULTS.replica.environment == "inherit"


@given(st.dictionaries(st.text(max_size=8).map("penstock.".__add__), st.text(max_size=12)))
def test_no_tag_can_break_the_reading(tags: dict[str, str]) -> None:
    read_settings(tags, {}, DEFAULTS, None)


@given(
    field=st.sampled_from(
        [
            "max_batch_size",
            "max_queue_delay_ms",
            "device",
            "threads",
            "environment",
            "execution_timeout_ms",
            "job_concurrency",
            "job_slice_ms",
            "drain_timeout_s",
            "jobs",
        ]
    ),
)
def test_revision_ids_follow_content(field: str) -> None:
    base = ReplicaSettings()
    other = base.model_copy(
        update={
            field: {
                "device": "cpu",
                "environment": "isolated",
                "jobs": "off",
                "batching": "on",
                "warmup": "off",
            }.get(field, 3)
        }
    )
    same = revision_id("m", "1", "d", base)
    assert same == revision_id("m", "1", "d", ReplicaSettings())
    assert same.startswith("m/1-")
    assert len(same) == len("m/1-") + 8
    assert same != revision_id("m", "1", "d", other)
    assert same != revision_id("m", "1", "e", base)


def test_settings_that_came_later_change_no_revision_while_unset() -> None:
    """An upgrade of Penstock must not swap every model."""
    assert revision_id("m", "1", "d", ReplicaSettings()) == "m/1-f283860e"


SETTINGS = st.builds(
    ServingSettings,
    queue_timeout_ms=st.none() | st.floats(1, 1e6),
    execution_timeout_ms=st.none() | st.floats(1, 1e6),
    hedge=st.sampled_from(["auto", "off"]) | st.floats(0.1, 1e6),
    hedge_budget=st.floats(0, 1),
    replicas=st.integers(1, 9) | st.just("each"),
    jobs=st.sampled_from([None, "only", "off"]),
    job_replicas=st.integers(1, 9),
    job_concurrency=st.none() | st.integers(1, 99),
    job_slice_ms=st.none() | st.floats(1, 1e6),
    drain_timeout_s=st.none() | st.floats(0, 1e4),
    batching=st.sampled_from([None, "on", "off"]),
    warmup=st.sampled_from([None, "off"]),
)


@given(SETTINGS)
def test_what_is_deployed_is_what_was_read_also_by_way_of_the_store(
    settings: ServingSettings,
) -> None:
    (seen,) = observed(versions={"1": STABLE}).versions
    revision = revision_of(seen, manifest_for(seen.source), settings, Policy())
    stored = RevisionDeployment.model_validate_json(revision.model_dump_json())
    assert deployed_settings(stored) == settings


def test_batching_and_warm_up_are_told_to_replicas() -> None:
    tags = {"penstock.batching": "on", "penstock.warmup": "off"}
    said, problems = read_settings(tags, {"penstock.batching": "OFF"}, DEFAULTS, None)
    assert (said.replica.batching, said.replica.warmup, problems) == ("off", "off", ())
    _, (problem,) = read_settings({"penstock.batching": "maybe"}, {}, DEFAULTS, None)
    assert problem == "penstock.batching is 'maybe', expected auto, on or off; auto stays"


@pytest.mark.parametrize(
    "tags",
    [{"penstock.jobs": "shared"}, {"penstock.batching": "auto"}, {"penstock.warmup": "auto"}],
)
def test_to_say_what_holds_anyway_swaps_nothing(tags: dict[str, str]) -> None:
    said, problems = read_settings(tags, {}, DEFAULTS, None)
    assert (said.replica, problems) == (DEFAULTS.replica, ())


def test_documents_of_before_mean_the_defaults() -> None:
    (seen,) = observed(versions={"1": STABLE}).versions
    revision = revision_of(seen, manifest_for(seen.source), DEFAULTS, Policy())
    document = revision.model_dump(mode="json")
    for field in ("queue_timeout_ms", "hedge", "hedge_budget", "job_replicas"):
        del document[field]
    for field in LATER_SETTINGS:
        del document["settings"][field]
    del document["manifest"]["streams"]
    assert RevisionDeployment.model_validate(document) == revision
