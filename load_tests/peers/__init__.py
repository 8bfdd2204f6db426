"""Other model servers, to be measured beside ours on the same models.

Imports `load_tests.server`, models and servers. Never measures. What runs in their own environments
is in `apps`, and imports nothing of ours.
"""

from __future__ import annotations

from load_tests.peers.peer import Peer
from load_tests.peers.recipes import RECIPES
from load_tests.server import Server


def all_peers() -> list[Server]:
    """Every peer; each is installed when it is first started."""
    return [Peer(recipe) for recipe in RECIPES]
