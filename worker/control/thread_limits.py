"""How many threads numeric libraries start in a process, which they are told by its environment."""

from __future__ import annotations

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What numeric libraries take their thread counts from, when they are first imported."""


def thread_limits(threads: int | None) -> dict[str, str]:
    """Variables for a process whose numeric libraries are to use so many threads; None: any."""
    return {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
