"""Records: plain values that many are made of for every request.

A frozen dataclass sets each attribute through `object.__setattr__`, which makes it three times as
slow to make as a plain one: with the ten records of a small request, that is a tenth of all the
processor time that it takes. So these are frozen to the type checker alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots. To assign to an attribute is an error that mypy finds."""
    return dataclass(slots=True)(cls)
