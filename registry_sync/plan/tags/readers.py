"""How the text of a tag becomes a value, and what is said to be expected of it (pure)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

_DEVICE = re.compile(r"auto|cpu|cuda:\d{1,3}")


class Reader(Protocol):
    """Reads what an operator wrote, without the space around it."""

    @property
    def expected(self) -> str:
        """What may be written, for whom wrote something else."""
        ...

    @property
    def unset(self) -> str:
        """The word for None; empty: there is none."""
        ...

    def read(self, text: str) -> Any:
        """The value.

        Raises:
            ValueError: if it is nothing of what is expected.
        """
        ...


@dataclass(frozen=True)
class Words:
    """One of some words, in either case; `unset` is the one of them that is read as None."""

    words: tuple[str, ...]
    unset: str = ""

    @property
    def expected(self) -> str:
        """All of them."""
        *others, last = self.words
        return f"{', '.join(others)} or {last}"

    def read(self, text: str) -> str | None:
        """The word, in small letters."""
        word = text.lower()
        if word not in self.words:
            raise ValueError(text)
        return None if word == self.unset else word


@dataclass(frozen=True)
class Integer:
    """A count within bounds, both included."""

    low: int
    high: int
    unset = ""

    @property
    def expected(self) -> str:
        """The bounds."""
        return f"a number from {self.low} to {self.high}"

    def read(self, text: str) -> int:
        """The count; only digits are one, lest `1e3` or `1_000` pass here and nowhere else."""
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(text)
        number = int(text)
        if not self.low <= number <= self.high:
            raise ValueError(text)
        return number


@dataclass(frozen=True)
class Number:
    """An amount of `unit` within bounds, both included unless it must be `above` the lower one."""

    unit: str
    low: float
    high: float
    above: bool = False
    unset = ""

    @property
    def expected(self) -> str:
        """The unit and the bounds; of a duration, nobody needs to be told that it may be 0."""
        if self.above:
            return f"{self.unit} above {self.low:.0f}, up to {self.high:.0f}"
        span = "up to" if self.low == 0 and self.high > 1 else f"from {self.low:.0f} to"
        return f"{self.unit} {span} {self.high:.0f}"

    def read(self, text: str) -> float:
        """The amount, in `unit`."""
        number = float(text)
        if not (math.isfinite(number) and self.low <= number <= self.high):
            raise ValueError(text)
        if self.above and number == self.low:
            raise ValueError(text)
        return number


@dataclass(frozen=True)
class Either:
    """A word, or a number; `none` is the one of the words that is read as None."""

    words: tuple[str, ...]
    number: Integer | Number
    none: str = ""
    unset = ""

    @property
    def expected(self) -> str:
        """The number, or the word; where there are several words, they come first."""
        if len(self.words) == 1:
            return f"{self.number.expected}, or {self.words[0]}"
        return f"{', '.join(self.words)}, or {self.number.expected}"

    def read(self, text: str) -> str | float | None:
        """The word in small letters, or the number."""
        word = text.lower()
        if word in self.words:
            return None if word == self.none else word
        return self.number.read(text)


@dataclass(frozen=True)
class Device:
    """Where a replica runs."""

    expected = "auto, cpu or cuda:N"
    unset = ""

    def read(self, text: str) -> str:
        """The device, in small letters."""
        if not _DEVICE.fullmatch(text.lower()):
            raise ValueError(text)
        return text.lower()


@dataclass(frozen=True)
class Text:
    """What is no setting, and is read by nobody but people."""

    expected: str
    unset = ""

    def read(self, text: str) -> str:
        """The text itself."""
        return text
