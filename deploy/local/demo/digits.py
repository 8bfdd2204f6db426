"""The data of the demo: scikit-learn's 1,797 images of handwritten digits, 8x8 pixels of 0..16.

The split is fixed, so that the demo's client tests on images that the demo's models never saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST_SHARE = 0.25
SPLIT_SEED = 7


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 pixels, and the digits that they show."""

    train_images: NDArray[np.float32]
    test_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]


def load_split() -> Digits:
    """The images in their fixed split."""
    bunch: Any = load_digits()
    images = bunch.data.astype(np.float32)
    labels = bunch.target.astype(np.int64)
    parts = train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels
    )
    return Digits(*parts)
