"""Whether two executions gave a row the same answer. Pure array work.

Floating point numbers are summed in another order in another batch, so they are compared relative
to the largest value of the row: a value near zero, beside large ones, is noise. All else must be
equal exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.shared.wire.tensors import AnyArray

FP64_TOLERANCE, FP32_TOLERANCE, FP16_TOLERANCE = 1e-9, 1e-4, 1e-2
"""Some thousand roundings of each type: a different order of summation stays below, and what one
row does to another is far above."""


def tolerance_of(array: AnyArray, *, coarse: bool = False) -> float:
    """Largest difference, relative to a row's largest value; 0: elements must be equal.

    Args:
        array: of the answer.
        coarse: it was computed in BF16, which numpy does not have.
    """
    if array.dtype.kind != "f":
        return 0.0
    if coarse or array.dtype.itemsize == 2:
        return FP16_TOLERANCE
    if array.dtype.itemsize == 4:
        return FP32_TOLERANCE
    with np.errstate(over="ignore"):
        is_single = np.array_equal(array, array.astype(np.float32), equal_nan=True)
    return FP32_TOLERANCE if is_single else FP64_TOLERANCE


PLACE_SLACK = 100.0
"""How much more than of a row's largest value a place may differ, relative to its own largest: a
score beside a time stamp must not hide behind it."""


def largest_of(answers: Sequence[AnyArray]) -> AnyArray | None:
    """The largest value that each place of a row has in some answer; None: rows differ in shape."""
    if len({answer.shape[1:] for answer in answers}) != 1 or answers[0].dtype.kind != "f":
        return None
    values = np.abs(np.concatenate(answers).astype(np.float64))
    largest: AnyArray = np.where(np.isfinite(values), values, 0.0).max(axis=0, initial=0.0)
    return largest


def same_row(
    one: AnyArray, other: AnyArray, tolerance: float, scale: AnyArray | None = None
) -> bool:
    """Whether two answers for a row are the same.

    Args:
        one, other: of any shape; both with a batch dimension of one.
        tolerance: see `tolerance_of`.
        scale: see `largest_of`.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    a, b = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    if not finite.any():
        return True
    differs = np.abs(a[finite] - b[finite])
    if scale is not None:
        allowed = PLACE_SLACK * tolerance * np.broadcast_to(scale, a.shape)[finite]
        if bool((differs > allowed).any()):
            return False
    largest = float(np.abs(a[finite]).max())
    return bool(differs.max() <= tolerance * largest)
