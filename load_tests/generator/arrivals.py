"""When an open loop's requests are sent: Poisson arrivals, the same for the same seed; pure.

Clients that do not know of each other send so: sometimes several at once, sometimes none for a
while. A server that is at 80% of what it can do has queues for this reason alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ARRIVALS_MAX = 2_000_000
"""What one run may send: a typing error in a rate must not fill the memory."""


def poisson_arrivals(rate_rps: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Offsets in seconds from the start, in order, all below `duration_s`."""
    if rate_rps <= 0 or rate_rps * duration_s > ARRIVALS_MAX:
        raise ValueError(f"{rate_rps:g} requests per second for {duration_s:g} s")
    rng = np.random.default_rng(seed)
    # So many that it is as good as certain that they reach to the end; if not, there are more.
    expected = rate_rps * duration_s
    offsets = np.zeros(0)
    while not len(offsets) or offsets[-1] < duration_s:
        gaps = rng.exponential(1 / rate_rps, int(expected + 6 * expected**0.5) + 10)
        last = offsets[-1] if len(offsets) else 0.0
        offsets = np.concatenate([offsets, last + np.cumsum(gaps)])
    return offsets[offsets < duration_s]
