"""The demo's model `digits-diffusion`, whole: MLflow logs this file as the model's code.

So it imports nothing of Penstock, and loads wherever MLflow, NumPy and pandas are. It draws
handwritten digits of 8x8 pixels by diffusion: it begins with noise, and in each of `steps` steps
takes a little of it away, as a small network says. It is slow in the way that such models are: its
time is steps times that of the network, about 0.1 ms, so `steps` sets how long an image takes.

    time 1     an image is noise:        signal 0, noise 1
    time 0     an image is clear:        signal 1, noise 0
    between    signal cos(time * pi/2), noise sin(time * pi/2)

The network is told a noisy image, its time and the digit, and answers its velocity: signal times
the noise in it, minus noise times the clear image. Both follow from that by a rotation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

SIDE = 8
PIXELS = SIDE * SIDE
DIGITS = 10
FREQUENCIES = 16
CONDITIONS = 2 * FREQUENCIES + DIGITS

STEPS_DEFAULT = 200
STEPS_MAX = 100_000
"""Some ten seconds: a bound on what one request can take."""

PREVIEWS_MAX = 100
"""Most reports of progress, and previews, of one answer: more than that nobody can see."""

WEIGHTS = "weights"
"""The model's one artifact: a NumPy archive."""

Floats: TypeAlias = NDArray[Any]
Weights: TypeAlias = dict[str, Floats]
Tape: TypeAlias = list[tuple[Floats, Floats, Floats]]
"""For each layer from the first: its input, what it made of it, and the sigmoid of that."""


def signal_and_noise(times: Floats) -> tuple[Floats, Floats]:
    """How much of the clear image and how much noise is in an image at these times (0 to 1)."""
    return np.cos(times * (np.pi / 2)), np.sin(times * (np.pi / 2))


def conditions(times: Floats, digits: Floats) -> Floats:
    """What the network is told beside the image, [rows, CONDITIONS].

    Args:
        times, digits: [rows].
    """
    angles = times[:, None] * (np.arange(1, FREQUENCIES + 1) * (np.pi / 2))
    chosen = digits[:, None] == np.arange(DIGITS)
    return np.concatenate([np.cos(angles), np.sin(angles), chosen], axis=1).astype(np.float32)


def velocity(weights: Weights, noisy: Floats, told: Floats, tape: Tape | None = None) -> Floats:
    """The network's answer: [rows, PIXELS] for noisy images [rows, PIXELS].

    Args:
        told: the images' `conditions`.
        tape: takes what training needs for the way back.
    """
    entry = np.concatenate([noisy, told], axis=1).astype(np.float32)
    hidden = _layer(entry, entry @ weights["entry"], tape)
    for block in range(blocks_of(weights)):
        summed = hidden @ weights[f"block_{block}"] + told @ weights[f"told_{block}"]
        hidden = hidden + _layer(hidden, summed, tape)
    return hidden @ weights["exit"]


def blocks_of(weights: Weights) -> int:
    """How many hidden layers there are after the first."""
    return sum(name.startswith("block_") for name in weights)


def _layer(given: Floats, summed: Floats, tape: Tape | None) -> Floats:
    """The activation: x * sigmoid(x)."""
    sigmoid = 1 / (1 + np.exp(-summed))
    if tape is not None:
        tape.append((given, summed, sigmoid))
    return np.asarray(summed * sigmoid)


def draw(weights: Weights, digits: Floats, steps: Floats, seeds: Floats) -> Iterator[Floats]:
    """Images [rows, PIXELS] of -1 to 1 after each step, until the last row is clear.

    Every row has steps and chance of its own, so that it comes out alike whatever is beside it.
    What is yielded is changed by the next step.
    """
    chances = [np.random.default_rng(int(seed)) for seed in seeds]
    images = np.stack([chance.standard_normal(PIXELS) for chance in chances])
    for done in range(int(steps.max())):
        rows = np.flatnonzero(done < steps)
        fresh = np.stack([chances[row].standard_normal(PIXELS) for row in rows])
        begin, end = 1 - done / steps[rows], 1 - (done + 1) / steps[rows]
        images[rows] = _step(
            weights=weights,
            images=images[rows],
            digits=digits[rows],
            begin=begin,
            end=end,
            fresh=fresh,
        )
        yield images


def _step(
    weights: Weights, images: Floats, digits: Floats, begin: Floats, end: Floats, fresh: Floats
) -> Floats:
    """Images of a time made images of an earlier one, with fresh noise (ancestral sampling)."""
    signal, noise = (each[:, None] for each in signal_and_noise(begin))
    next_signal, next_noise = (each[:, None] for each in signal_and_noise(end))
    clear = signal * images - noise * velocity(weights, images, conditions(begin, digits))
    clear = clear.clip(-1, 1)
    kept = signal / next_signal
    added = noise**2 - (kept * next_noise) ** 2
    mean = (kept * next_noise**2 * images + next_signal * added * clear) / noise**2
    return np.asarray(mean + np.sqrt(added) * next_noise / noise * fresh)


class DigitsDiffusion(PythonModel):  # type: ignore[misc]
    """What MLflow loads.

    Input, a row for each image: `digit` (0 to 9), `steps` (1 to STEPS_MAX; left out or 0: the
    default) and `seed` (at least 0; the same seed gives the same image). Output: `image`, float32
    [rows, 8, 8] of 0 (paper) to 1 (ink).
    """

    def load_context(self, context: Any) -> None:
        """Read the weights."""
        with np.load(context.artifacts[WEIGHTS]) as archive:
            self._weights: Weights = dict(archive)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> dict[str, Floats]:
        """The images.

        Raises:
            ValueError: if an input is out of its bounds.
        """
        (images,) = deque(draw(self._weights, *_read(model_input)), maxlen=1)
        return _pictures(images)

    def predict_stream(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Progress (`progress` of 0 to 1, `message`) and the image so far, in turns.

        The last image is the answer. MLflow streams for one row only, handed over as a mapping.

        Raises:
            ValueError: if an input is out of its bounds.
        """
        digits, steps, seeds = _read(model_input)
        total = int(steps.max())
        every = -(-total // PREVIEWS_MAX)
        for done, images in enumerate(draw(self._weights, digits, steps, seeds), start=1):
            if done % every == 0 or done == total:
                yield {"progress": done / total, "message": f"step {done} of {total}"}
                yield _pictures(images)


def _pictures(images: Floats) -> dict[str, Floats]:
    shown = ((images + 1) / 2).clip(0, 1).astype(np.float32)
    return {"image": shown.reshape(-1, SIDE, SIDE)}


def _read(model_input: Any) -> tuple[Floats, Floats, Floats]:
    """Digits, steps and seeds of a data frame, or of one row as a mapping."""
    single = isinstance(model_input, Mapping)
    rows = pd.DataFrame([model_input]) if single else model_input
    digits = _bounded(rows["digit"], "digit", DIGITS - 1)
    steps = _bounded(rows["steps"], "steps", STEPS_MAX) if "steps" in rows else 0 * digits
    seeds = _bounded(rows["seed"], "seed", 2**63 - 1) if "seed" in rows else 0 * digits
    return digits, np.where(steps == 0, STEPS_DEFAULT, steps), seeds


def _bounded(column: Any, name: str, largest: int) -> Floats:
    values = column.to_numpy()
    for value in values:
        if not 0 <= value <= largest:
            raise ValueError(f"{name}: expected 0 to {largest}, got {value}")
    return np.asarray(values, np.int64)


set_model(DigitsDiffusion())
