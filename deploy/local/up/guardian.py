"""The guardian: ends what a launcher that was killed leaves behind.

The parent-death signal reaches only direct children, so a kill -9 of the launcher would leave the
children of its children (MLflow's web workers) running. The guardian reads its standard input, a
pipe from the launcher: `+pgid` puts a process group under guard, `-pgid` takes it off. At the end
of the input, which nobody can prevent from coming when the launcher dies, it ends whole groups:
SIGTERM, up to `GRACE_S`, then SIGKILL.

It also inherits the launcher's lock on the data directory, so that the next launcher can wait
until everything of the last one is gone. It imports only the standard library: it is to be small
and to start at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 3.0
POLL_S = 0.02
"""There is no event for the end of a group whose processes are not our children."""


def guarded_groups(lines: Iterable[str]) -> set[int]:
    """The groups under guard once all `lines` were read; malformed lines are ignored."""
    groups: set[int] = set()
    for line in lines:
        sign, digits = line[:1], line[1:].strip()
        if not digits.isdigit() or int(digits) <= 1:
            continue
        if sign == "+":
            groups.add(int(digits))
        elif sign == "-":
            groups.discard(int(digits))
    return groups


def end_groups(groups: set[int], grace_s: float = GRACE_S) -> None:
    """End the groups, gently for as long as `grace_s`."""
    alive = {group for group in groups if signal_group(group, signal.SIGTERM)}
    give_up = time.monotonic() + grace_s
    while alive and time.monotonic() < give_up:
        time.sleep(POLL_S)
        alive = {group for group in alive if signal_group(group, 0)}
    for group in alive:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, signum: int) -> bool:
    """Send a signal to a group; whether there was anybody to receive it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """Guard until the launcher's end of the pipe is closed."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    end_groups(guarded_groups(sys.stdin))


if __name__ == "__main__":
    main()
