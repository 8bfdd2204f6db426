"""The generative demo model: what it learns, and what its drawing promises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from penstock.deploy.local.demo.diffusion import recognised
from penstock.deploy.local.demo.diffusion_model import (
    CONDITIONS,
    PIXELS,
    PREVIEWS_MAX,
    STEPS_DEFAULT,
    STEPS_MAX,
    WEIGHTS,
    DigitsDiffusion,
    Weights,
    conditions,
    draw,
    velocity,
)
from penstock.deploy.local.demo.diffusion_training import fresh_weights, train, way_back
from penstock.deploy.local.demo.digits import load_split


@pytest.fixture(scope="module")
def trained() -> Weights:
    return train(load_split(), 800, lambda: None)


def drawn(weights: Weights, digit: int, steps: int, seed: int) -> Any:
    *_, images = draw(weights, np.array([digit]), np.array([steps]), np.array([seed]))
    return images[0]


@pytest.fixture(scope="module")
def model(trained: Weights, tmp_path_factory: pytest.TempPathFactory) -> Any:
    archive = tmp_path_factory.mktemp("model") / "weights.npz"
    np.savez(archive, allow_pickle=False, **trained)
    model = DigitsDiffusion()
    model.load_context(SimpleNamespace(artifacts={WEIGHTS: str(archive)}))
    return model


def test_a_short_training_draws_what_is_asked_for(trained: Weights) -> None:
    share = recognised(trained, load_split())
    print(f"after 800 steps, {share:.0%} are classified as the digit that was asked for")
    assert share >= 0.6


def test_the_way_back_agrees_with_small_differences() -> None:
    chance = np.random.default_rng(1)
    weights = {
        name: array + chance.standard_normal(array.shape).astype(np.float32) / 20
        for name, array in fresh_weights(chance).items()
    }
    images = chance.standard_normal((4, PIXELS)).astype(np.float32)
    told = conditions(chance.random(4), np.array([3, 1, 4, 1]))
    assert told.shape == (4, CONDITIONS)
    tape: Any = []
    target = chance.standard_normal((4, PIXELS))
    error = velocity(weights, images, told, tape) - target
    gradients = way_back(weights, told, tape, error)
    assert gradients.keys() == weights.keys()
    for name, gradient in gradients.items():
        direction = chance.standard_normal(gradient.shape).astype(np.float32)
        losses = []
        for by in (-1e-3, 1e-3):
            moved = weights | {name: weights[name] + np.float32(by) * direction}
            losses.append(((velocity(moved, images, told) - target) ** 2).sum() / 2)
        assert (losses[1] - losses[0]) / 2e-3 == pytest.approx(
            (gradient * direction).sum(), rel=0.05
        )


def test_an_image_is_alike_whatever_is_beside_it(trained: Weights) -> None:
    asked = np.array([[3, 40, 1], [7, 25, 2], [3, 40, 1], [0, 1, 5]]).T
    *_, together = draw(trained, *asked)
    for row, (digit, steps, seed) in enumerate(asked.T):
        assert together[row] == pytest.approx(drawn(trained, digit, steps, seed), abs=1e-3)
    assert abs(drawn(trained, 3, 40, 1) - drawn(trained, 3, 40, 2)).max() > 0.1


def test_a_stream_ends_with_the_whole_answer(model: Any) -> None:
    row = {"digit": 4, "steps": 12, "seed": 9}
    streamed = list(model.predict_stream(None, row))
    whole = model.predict(None, pd.DataFrame([row]))
    assert whole["image"].shape == (1, 8, 8)
    assert whole["image"].dtype == np.float32
    assert (streamed[-1]["image"] == whole["image"]).all()
    assert [each["message"] for each in streamed[::2]] == [f"step {n} of 12" for n in range(1, 13)]
    assert [each["progress"] for each in streamed[::2]] == [n / 12 for n in range(1, 13)]
    assert all(each["image"].shape == (1, 8, 8) for each in streamed[1::2])
    changes = [abs(a["image"] - whole["image"]).max() for a in streamed[1::2]]
    assert changes[0] > changes[-2] > changes[-1] == 0, "previews are no copies of the last one"


@pytest.mark.parametrize("steps", [1, 99, 100, 101, 250, 1000])
def test_reports_are_bounded(model: Any, steps: int) -> None:
    streamed = list(model.predict_stream(None, {"digit": 1, "steps": steps}))
    reports = [each["progress"] for each in streamed if "progress" in each]
    assert min(steps, PREVIEWS_MAX // 2) <= len(reports) <= PREVIEWS_MAX
    assert reports == sorted(reports)
    assert reports[-1] == 1.0
    assert "image" in streamed[-1]


def test_what_is_left_out_has_a_default(model: Any) -> None:
    streamed = list(model.predict_stream(None, {"digit": 1}))
    assert streamed[-2]["message"] == f"step {STEPS_DEFAULT} of {STEPS_DEFAULT}"
    zeros = list(model.predict_stream(None, {"digit": 1, "steps": 0, "seed": 0}))
    assert (zeros[-1]["image"] == streamed[-1]["image"]).all()


@pytest.mark.parametrize(
    "row",
    [
        {"digit": 10},
        {"digit": -1},
        {"digit": 1, "steps": STEPS_MAX + 1},
        {"digit": 1, "steps": -1},
        {"digit": 1, "seed": -1},
    ],
)
def test_inputs_are_bounded(model: Any, row: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 0 to"):
        model.predict(None, pd.DataFrame([{"digit": 1, "steps": 1, "seed": 1} | row]))
    with pytest.raises(ValueError, match="expected 0 to"):
        next(model.predict_stream(None, row))
