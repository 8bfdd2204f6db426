"""Trains the network of `penstock.deploy.local.demo.diffusion_model`, in NumPy: it is small enough
for that.

Each step takes images, mixes noise into them for random times, and moves the weights (Adam, the
rate falling to nothing) towards telling image and noise apart. The way back through the layers is
written out. What is kept is a running mean of the weights, which draws better than the last ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.deploy.local.demo.diffusion_model import (
    CONDITIONS,
    PIXELS,
    Floats,
    Tape,
    Weights,
    blocks_of,
    conditions,
    signal_and_noise,
    velocity,
)
from penstock.deploy.local.demo.digits import Digits

WIDTH = 256
BLOCKS = 3
BATCH = 128
RATE = 1e-3
WARM_UP_STEPS = 100
MOMENTUM, SCALING = 0.9, 0.99
MEAN_OVER_STEPS = 200
TINY = 1e-8
PIXEL_MAX = 16.0


def train(digits: Digits, steps: int, on_step: Callable[[], None]) -> Weights:
    """Weights that were trained on the training images for so many steps, about 10 ms each."""
    chance = np.random.default_rng(0)
    weights = fresh_weights(chance)
    mean = {name: array.copy() for name, array in weights.items()}
    adam = _Adam(weights)
    images = digits.train_images / (PIXEL_MAX / 2) - 1
    for step in range(1, steps + 1):
        rows = chance.integers(0, len(images), BATCH)
        gradients = _gradients(weights, images[rows], digits.train_labels[rows], chance)
        rate = RATE * min(1.0, step / WARM_UP_STEPS) * (1 + np.cos(np.pi * step / steps))
        adam.move(gradients, rate)
        newest = max(1 / step, 1 / MEAN_OVER_STEPS)
        for name, array in weights.items():
            mean[name] += newest * (array - mean[name])
        on_step()
    return mean


def fresh_weights(chance: np.random.Generator) -> Weights:
    """Of an untrained network, whose answer is 0."""

    def random(inputs: int) -> Floats:
        weights = chance.standard_normal((inputs, WIDTH), np.float32)
        return np.asarray(weights / np.sqrt(np.float32(inputs)))

    weights = {"entry": random(PIXELS + CONDITIONS)}
    for block in range(BLOCKS):
        weights[f"block_{block}"] = random(WIDTH)
        weights[f"told_{block}"] = random(CONDITIONS)
    weights["exit"] = np.zeros((WIDTH, PIXELS), np.float32)
    return weights


def _gradients(
    weights: Weights, images: Floats, labels: Floats, chance: np.random.Generator
) -> Weights:
    """Of the mean squared error of the velocity."""
    times = chance.random(len(images), np.float32)
    signal, noise = (each[:, None] for each in signal_and_noise(times))
    added = chance.standard_normal(images.shape, np.float32)
    told = conditions(times, labels)
    tape: Tape = []
    answer = velocity(weights, signal * images + noise * added, told, tape)
    error = answer - (signal * added - noise * images)
    return way_back(weights, told, tape, error * np.float32(2 / error.size))


def way_back(weights: Weights, told: Floats, tape: Tape, slope: Floats) -> Weights:
    """Gradients by the weights' names.

    Args:
        told: what the network was told, as `conditions`.
        tape: what `velocity` wrote; it is used up.
        slope: of the loss, by the network's answer [rows, PIXELS].
    """
    last, summed, sigmoid = tape[-1]  # of a block: what it was given, and what it adds
    gradients = {"exit": (last + summed * sigmoid).T @ slope}
    slope = slope @ weights["exit"].T
    for block in reversed(range(blocks_of(weights))):
        given, summed, sigmoid = tape.pop()
        inner = slope * _slope(summed, sigmoid)
        gradients[f"block_{block}"] = given.T @ inner
        gradients[f"told_{block}"] = told.T @ inner
        slope = slope + inner @ weights[f"block_{block}"].T
    given, summed, sigmoid = tape.pop()
    gradients["entry"] = given.T @ (slope * _slope(summed, sigmoid))
    return gradients


def _slope(summed: Floats, sigmoid: Floats) -> Floats:
    """Of the activation."""
    return np.asarray(sigmoid * (1 + summed * (1 - sigmoid)))


class _Adam:
    """Moves weights, in place, along gradients whose size is evened out."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._first = {name: np.zeros_like(array) for name, array in weights.items()}
        self._second = {name: np.zeros_like(array) for name, array in weights.items()}
        self._moves = 0

    def move(self, gradients: Weights, rate: float) -> None:
        self._moves += 1
        first_share, second_share = 1 - MOMENTUM**self._moves, 1 - SCALING**self._moves
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += (1 - MOMENTUM) * (gradient - first)
            second += (1 - SCALING) * (gradient**2 - second)
            size = np.sqrt(second / second_share) + TINY
            self._weights[name] -= rate / first_share * first / size
