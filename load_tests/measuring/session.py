"""One run of some scenarios: how long, how often, where its files are, what it tells meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from load_tests.models.small import make_model, sample_rows
from load_tests.server import Model, Rows

SAMPLES = 16
"""Different requests, sent in turn."""

WARM_UP_S = 1.0


class Size(StrEnum):
    """Of the GPU scenario's models."""

    FULL = "full"
    SMALL = "small"  # to try the scenario itself on a CPU


@dataclass
class Session:
    """What every scenario gets.

    Attributes:
        duration_s: of one load.
        repeats: of each load; reported are medians.
        folder: for models, data and logs; removed at the end.
        device: of the GPU scenario, as the user asked; empty: the first GPU.
        size: of its models.
        models: of it, by name; none: all.
    """

    duration_s: float
    repeats: int
    folder: Path
    device: str = ""
    size: Size = Size.FULL
    models: Sequence[str] = ()
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _models: dict[str, Model] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell the user what happens."""
        print(text, flush=True)

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / f"{next(self._numbers)}-{name.replace(' ', '-')}"
        path.mkdir(parents=True)
        return path

    def model(self, name: str) -> Model:
        """One of the models by name; made when it is first asked for."""
        if name not in self._models:
            self._models[name] = make_model(self.folder / "models", name)
        return self._models[name]

    def samples(self, model: Model) -> Sequence[Rows]:
        """Its inputs."""
        return sample_rows(model, SAMPLES)
