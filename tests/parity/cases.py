"""What a case of the zoo is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parity.bodies import Body


@dataclass(frozen=True)
class Case:
    """A model, and what is asked of it.

    Attributes:
        make: writes the model into a folder, with MLflow.
        bodies: made when they are needed.
        needs: packages without which it cannot be made.
        quick: it is among those that every test run has; these are served.
        served: whether it is served by processes in other runs, too; else gateway and replica work
            on it in the test's process, as these models differ in what they return alone.
        volatile: members of answers that are others each time (identifiers, times).
    """

    id: str
    make: Callable[[Path], None]
    bodies: Callable[[], Sequence[Body]]
    needs: tuple[str, ...] = ()
    quick: bool = False
    volatile: tuple[str, ...] = ()
    served: bool = True
