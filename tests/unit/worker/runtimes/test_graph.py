"""What names of first dimensions say about a batch."""

from __future__ import annotations

import pytest

from penstock.worker.runtimes.graph import named_apart
from penstock.worker.runtimes.onnx import MADE_UP_NAMES


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"x": "N"}, {"y": "N"}, ""),
        ({"x": "batch"}, {"y": "batch_size"}, ""),
        ({"x": "N"}, {"y": "K"}, "output 'y' begins with dimension K, the inputs with N"),
        ({"x": "rows", "z": "items"}, {"y": "rows"}, "no first dimension in common"),
        ({"x": "N"}, {"y": "unk__7"}, ""),
        ({"x": "x_dynamic_axes_1"}, {"y": "y_dynamic_axes_1"}, ""),
        ({"x": "?"}, {"y": "M"}, ""),
        ({"x": None}, {"y": 3}, ""),
        ({"x": "p2o.DynamicDimension.0"}, {"y": "p2o.DynamicDimension.1"}, ""),
    ],
)
def test_names_that_somebody_gave_tell(
    inputs: dict[str, object], outputs: dict[str, object], words: str
) -> None:
    told = named_apart(inputs, outputs, made_up=MADE_UP_NAMES)
    assert words in told if words else told == ""
