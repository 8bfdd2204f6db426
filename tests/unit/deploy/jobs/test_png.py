"""PNG files, read back by another library."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from penstock.deploy.local.jobs.png import grey_png

images = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 1, width=32)
)


def read(png: bytes) -> Any:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


@given(images, st.integers(1, 5))
def test_what_is_read_is_what_was_written(image: Any, scale: int) -> None:
    expected = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    assert read(grey_png(image, scale)) == pytest.approx(expected, abs=0.51 / 255)


def test_values_beyond_are_black_and_white() -> None:
    assert read(grey_png(np.array([[-3.0, 7.0]]))).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("shape", [(8,), (0, 8), (1, 8, 8)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        grey_png(np.zeros(shape))


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        grey_png(np.array([[np.nan]]))
