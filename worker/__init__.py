"""The worker: a node agent and the replica processes that it spawns, batch by batch."""
