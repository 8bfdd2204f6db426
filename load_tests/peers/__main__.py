"""`python -m load_tests.peers install|check [NAME...]`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from load_tests.peers.check import check_peer
from load_tests.peers.peer import Peer
from load_tests.peers.recipes import RECIPES
from load_tests.server import ServerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a peer cannot be installed or does not work."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "check"))
    names = [recipe.name for recipe in RECIPES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    wanted = options.names or names
    failed = 0
    for recipe in RECIPES:
        if recipe.name in wanted:
            failed += not succeeds(options.action, Peer(recipe))
    return min(failed, 1)


def succeeds(action: str, peer: Peer) -> bool:
    """Do it and tell how it went."""
    try:
        print(f"{peer.name}: {install(peer) if action == 'install' else check(peer)}", flush=True)
    except ServerError as error:
        print(f"{peer.name}: FAILED: {error}", flush=True)
        return False
    return True


def install(peer: Peer) -> str:
    peer.venv.install()
    return "installed"


def check(peer: Peer) -> str:
    with tempfile.TemporaryDirectory(prefix="penstock-peers-") as folder:
        found = check_peer(peer, Path(folder))
    start = "/".join(f"{each.start_s:.1f}" for each in found)
    stop = "/".join(f"{each.stop_s:.1f}" for each in found)
    return (
        f"{found[0].version}, {sum(each.answers for each in found)} answers right in "
        f"{', '.join(peer.encodings)}; first answer after {start} s, {found[0].processes} "
        f"processes, all gone {stop} s after SIGTERM"
    )


def on_sigterm(signum: int, _frame: FrameType | None) -> None:
    """An exception, so that peers are ended."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, on_sigterm)
    sys.exit(main())
