"""What the GPU scenario would run, and where."""

from __future__ import annotations

import itertools

import pytest
import torch

from load_tests.measuring.session import Size
from load_tests.models.torch_alone import Speed, best_batch, limit_of_ours
from load_tests.models.torch_networks import BertSize, ResNetSize, parameters_count, shell
from load_tests.report.percentiles import NAN
from load_tests.report.ratios import ratio_of
from load_tests.scenarios.gpu.cases import BERT_BASE, PLANS, RESNET50, chosen_cases, chosen_device
from load_tests.scenarios.gpu.scenario import ratio_check, replica_providers
from load_tests.server import NotHereError


@pytest.mark.parametrize(("size", "parameters"), [(RESNET50, 25_557_032), (BERT_BASE, 109_482_240)])
def test_the_networks_are_as_large_as_their_models(
    size: ResNetSize | BertSize, parameters: int
) -> None:
    with torch.device("meta"):
        assert parameters_count(shell(size)) == parameters


@pytest.mark.parametrize(
    ("asked", "size", "gpus", "device"),
    [
        ("", Size.FULL, 1, "cuda:0"),
        ("", Size.SMALL, 2, "cuda:0"),
        ("cuda:1", Size.FULL, 2, "cuda:1"),
        ("cpu", Size.SMALL, 0, "cpu"),
        ("cpu", Size.SMALL, 1, "cpu"),
    ],
)
def test_the_device_is_the_first_gpu_or_as_asked(
    asked: str, size: Size, gpus: int, device: str
) -> None:
    assert chosen_device(asked, size, gpus) == device


@pytest.mark.parametrize(
    ("asked", "size", "gpus", "told"),
    [
        ("", Size.FULL, 0, "no GPU.*--device cpu --size small"),
        ("", Size.SMALL, 0, "no GPU.*--device cpu --size small"),
        ("cuda:1", Size.FULL, 1, r"sees 1 GPU\(s\)"),
        ("cpu", Size.FULL, 1, "--device cpu --size small"),
        ("gpu", Size.FULL, 1, "neither cpu nor cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do(
    asked: str, size: Size, gpus: int, told: str
) -> None:
    with pytest.raises(NotHereError, match=told):
        chosen_device(asked, size, gpus)


def test_cases_are_chosen_by_name() -> None:
    names = [case.name for case in chosen_cases([], Size.FULL)]
    assert names == ["resnet50-fp32", "resnet50-bf16", "bert-base-fp32", "bert-base-bf16"]
    assert [case.name for case in chosen_cases(names[1:2], Size.FULL)] == names[1:2]
    with pytest.raises(NotHereError, match="bert: none of resnet50-fp32, "):
        chosen_cases(["bert", *names], Size.FULL)


def test_samples_are_all_different_and_always_the_same() -> None:
    for case in PLANS[Size.SMALL].cases:
        samples = case.samples()
        assert all((one != other).any() for one, other in itertools.combinations(samples, 2))
        assert all((a == b).all() for a, b in zip(samples, case.samples(), strict=True))


def speeds(by_rows: dict[int, float]) -> dict[int, Speed]:
    return {rows: Speed(copied, NAN) for rows, copied in by_rows.items()}


@pytest.mark.parametrize(
    ("by_rows", "connections", "best", "limit"),
    [
        ({1: 100, 8: 700, 64: 990, 256: 1000}, 256, 256, 64),
        ({1: 100, 8: 700, 64: 970, 256: 1000}, 256, 256, 128),  # half of the clients
        ({1: 100, 8: 700, 64: 600}, 256, 8, 8),
        ({1: 100}, 1, 1, 1),
    ],
)
def test_the_limit_is_the_smallest_batch_that_is_nearly_the_best(
    by_rows: dict[int, float], connections: int, best: int, limit: int
) -> None:
    assert best_batch(speeds(by_rows)) == best
    assert limit_of_ours(speeds(by_rows), connections) == limit


def test_a_ratio_has_a_bar_on_a_gpu_and_none_on_a_cpu() -> None:
    good, bad = ratio_of([95.0], [100.0]), ratio_of([80.0], [100.0])
    assert ratio_check("m", "cuda:0", good).held is True
    assert ratio_check("m", "cuda:0", bad).held is False
    assert ratio_check("m", "cpu", bad).held is None
    assert ratio_check("m", "cuda:0", None).held is None
    assert "cuda:0" in ratio_check("m", "cuda:0", good).what


def test_replicas_say_in_the_log_where_they_run() -> None:
    log = """{"event": "ready", "provider": "torch cuda:0"}
Traceback (most recent call last):
{"event": "ready"}
{"event": "other", "provider": "torch cpu"}
[]
"""
    assert list(replica_providers(log)) == ["torch cuda:0"]
