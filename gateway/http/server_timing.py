"""The header `server-timing`: where the time of a request went.

Numbers are put together from texts that are made once. Compiled, the header of an answer takes
0.4 µs so, and 1.3 µs if its three floats are formatted.
"""

from __future__ import annotations

from typing import Final

from penstock.gateway.inference.types import InferenceAnswer

_THOUSANDTHS: Final = tuple(f".{number:03d}" for number in range(1000))
_WHOLE: Final = tuple(str(number) for number in range(1000))
_US_BELOW: Final = 1_000_000
"""Below a second the texts are at hand, and in whole microseconds nothing overflows."""


def server_timing(answer: InferenceAnswer, total_s: float) -> str:
    """The header's value: time in the replica's queue, in the model, and in all, in ms.

    Of a call that took several attempts also the time before the one that was answered.
    """
    timing = (
        f"queue;dur={in_ms(answer.queue_s)}, "
        f"infer;dur={in_ms(answer.infer_s)}, total;dur={in_ms(total_s)}"
    )
    return timing if answer.attempts == 1 else f"{timing}, before;dur={in_ms(answer.before_s)}"


def in_ms(seconds: float) -> str:
    """A time in milliseconds, rounded to the microsecond."""
    exact_us = seconds * 1e6 + 0.5
    if not 0.0 <= exact_us < _US_BELOW:
        return f"{seconds * 1e3:.3f}"
    us = int(exact_us)
    return _WHOLE[us // 1000] + _THOUSANDTHS[us % 1000]
