"""What is made of what was found."""

from __future__ import annotations

import pytest

from penstock.deploy.local.commands.diagnosis import (
    ImportProbe,
    Level,
    RedisFacts,
    judge_descriptors,
    judge_import,
    judge_python,
    judge_redis,
    judge_runtimes,
)
from penstock.shared.jobs.durability import Durability

FACTS = RedisFacts(
    name="redis",
    version="7.2.4",
    policy="noeviction",
    memory_max=1 << 30,
    durability=Durability.ALWAYS,
)


def test_a_server_that_is_set_up_for_jobs_needs_nothing() -> None:
    assert {each.level for each in judge_redis(FACTS)} == {Level.OK}


@pytest.mark.parametrize(
    ("changed", "check", "level"),
    [
        ({"version": "6.2.14"}, "redis version", Level.MEND),
        ({"version": ""}, "redis version", Level.MEND),
        ({"version": "10.0"}, "redis version", Level.OK),
        ({"policy": "allkeys-lru"}, "redis eviction", Level.MEND),
        ({"policy": ""}, "redis eviction", Level.NOTE),
        ({"memory_max": 0}, "redis memory", Level.NOTE),
        ({"durability": Durability.NONE}, "redis persistence", Level.MEND),
        ({"durability": Durability.EVERYSEC}, "redis persistence", Level.NOTE),
        ({"durability": Durability.UNKNOWN}, "redis persistence", Level.NOTE),
    ],
)
def test_each_fault_of_a_server_is_told_with_a_remedy(
    changed: dict[str, object], check: str, level: Level
) -> None:
    found = {each.check: each for each in judge_redis(FACTS.model_copy(update=changed))}
    assert found[check].level is level
    assert bool(found[check].remedy) == (level is not Level.OK)


def test_what_is_not_installed_is_no_fault_but_what_cannot_be_imported_is() -> None:
    assert judge_import("gateway", "gateway", ImportProbe(missing="fastapi")).level is Level.NOTE
    assert (
        judge_import("gateway", "gateway", ImportProbe(error="OSError: libc")).level is Level.MEND
    )
    assert judge_import("gateway", "gateway", ImportProbe()).level is Level.OK


def test_a_runtime_that_cannot_use_the_gpus_is_told() -> None:
    assert judge_import("torch", "torch", ImportProbe(gpus=0), gpus=2).level is Level.NOTE
    assert judge_import("torch", "torch", ImportProbe(gpus=2), gpus=2).level is Level.OK
    assert judge_import("torch", "torch", ImportProbe(gpus=0), gpus=0).level is Level.OK


def test_a_worker_without_any_runtime_must_be_mended() -> None:
    none = {"onnx": ImportProbe(missing="onnxruntime"), "torch": ImportProbe(error="x")}
    (check,) = judge_runtimes(ImportProbe(), none)
    assert check.level is Level.MEND
    assert judge_runtimes(ImportProbe(), none | {"torch": ImportProbe()}) == []


def test_a_machine_without_a_worker_needs_no_runtime() -> None:
    assert (
        judge_runtimes(ImportProbe(missing="yaml"), {"onnx": ImportProbe(missing="onnxruntime")})
        == []
    )


@pytest.mark.parametrize(
    ("limit", "level"),
    [(256, Level.MEND), (1024, Level.NOTE), (65536, Level.OK), (-1, Level.OK)],
)
def test_few_descriptors_are_told(limit: int, level: Level) -> None:
    assert judge_descriptors(limit).level is level


def test_an_old_interpreter_must_be_mended() -> None:
    assert judge_python((3, 10, 4)).level is Level.MEND
    assert judge_python((3, 11, 0)).level is Level.OK
