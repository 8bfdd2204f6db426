"""Inputs that are made up, to find out what a model does with them: zeros, and empty strings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import NUMPY_OF, AnyArray

TENSOR_BYTES_MAX = 256 * 1024 * 1024
"""Inputs that would be larger than this are not made."""

FREE_SIZE = 1
"""What is taken for a dimension, other than the batch's, that the interface leaves open."""


def invented_inputs(specs: Sequence[TensorSpec], rows: int | None) -> dict[str, AnyArray] | None:
    """An array for every input; None if one would be too large.

    Args:
        rows: size of the batch dimension; None if there is none.
    """
    arrays: dict[str, AnyArray] = {}
    for spec in specs:
        shape = tuple(FREE_SIZE if size == -1 else size for size in spec.shape)
        if rows is not None:
            shape = (rows, *shape[1:])
        dtype = NUMPY_OF[spec.datatype]
        if math.prod(shape) * dtype.itemsize > TENSOR_BYTES_MAX:
            return None
        arrays[spec.name] = np.full(shape, b"" if dtype.kind == "O" else 0, dtype)
    return arrays


def is_guess(specs: Sequence[TensorSpec], *, batches: bool) -> bool:
    """Whether a model may well refuse what is made up for these inputs: open sizes, and text."""
    lead = 1 if batches else 0
    return any(spec.datatype == "BYTES" or -1 in spec.shape[lead:] for spec in specs)
