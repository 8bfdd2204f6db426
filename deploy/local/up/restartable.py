"""What can be restarted; apart, since the command line knows it before it imports the rest."""

from __future__ import annotations

from enum import StrEnum


class Restartable(StrEnum):
    """What `penstock restart` takes."""

    GATEWAYS = "gateways"
    WORKERS = "workers"
    REGISTRY_SYNC = "registry-sync"

    @property
    def process(self) -> str:
        """What names of its processes begin with."""
        return self.value.removesuffix("s")
