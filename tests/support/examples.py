"""How many examples property tests take: a third, or all with `--hypothesis-profile full`."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

DEV, FULL = "dev", "full"
COUNT = 100
"""Where a test does not say."""

DEV_SHARE = 3
FEWEST = 5


def register_profiles() -> None:
    """Both profiles; how long an example takes says more of the machine than of what is tested."""
    settings.register_profile(DEV, deadline=None, max_examples=COUNT // DEV_SHARE)
    settings.register_profile(FULL, deadline=None, max_examples=COUNT)
    settings.load_profile(DEV)


def examples(count: int, **more: Any) -> settings:
    """For a test that takes so many in full."""
    if settings.get_current_profile_name() != FULL:
        count = max(count // DEV_SHARE, FEWEST)
    return settings(max_examples=count, deadline=None, **more)
