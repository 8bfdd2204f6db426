"""What a case of the table is, and when an answer counts as the library's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from penstock.shared.wire.tensors import AnyArray

Inputs = Mapping[str, AnyArray]
Answers = Sequence[AnyArray]
Library = Callable[[Inputs], Answers]
"""Runs a model by its own library: its outputs in their order."""


class Batching(Enum):
    """Whether requests may share an execution."""

    BATCHED = "batched"
    NOT_BATCHED = "not batched"
    EITHER = "either"


BATCHED, NOT_BATCHED, EITHER = Batching


@dataclass(frozen=True)
class Case:
    """A model, requests for it, and whether it may be batched.

    Attributes:
        make: writes the model into a folder and returns the library's own way to run it.
        limit: the `max_batch_size` of a batched model.
        repeatable: False if the library does not answer the same twice: only shapes are compared.
    """

    id: str
    make: Callable[[Path], Library]
    requests: Sequence[Inputs]
    batching: Batching
    limit: int = 8
    repeatable: bool = True


LOOSE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-9}
"""By which answers may differ, relative to the largest value of a row."""


def difference(ours: Answers, own: Answers, *, values: bool = True) -> str:
    """What is wrong with an answer; empty if it is the library's own."""
    if len(ours) != len(own):
        return f"{len(ours)} outputs, not {len(own)}"
    for place, (mine, theirs) in enumerate(zip(ours, own, strict=True)):
        if (mine.dtype.kind, mine.shape) != (theirs.dtype.kind, theirs.shape):
            return (
                f"output {place} is {mine.dtype} {list(mine.shape)}, "
                f"the library's is {theirs.dtype} {list(theirs.shape)}"
            )
        if values and not _same(mine, theirs):
            return f"output {place} is {mine.tolist()}, the library's is {theirs.tolist()}"
    return ""


def _same(mine: AnyArray, theirs: AnyArray) -> bool:
    loose = LOOSE.get(theirs.dtype.name)
    if loose is None:
        return bool((mine == theirs).all())
    if loose == LOOSE["float64"] and (theirs == theirs.astype(np.float32)).all():
        loose = LOOSE["float32"]
    if theirs.size == 0:
        return True
    by_row = tuple(range(1, theirs.ndim))
    largest = np.abs(theirs.astype(np.float64)).max(axis=by_row, keepdims=True)
    apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64))
    return bool((apart <= loose * largest).all())
