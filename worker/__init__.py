"""The worker: a node agent and the replica processes that it spawns, batch by batch."""

if __name__ != "penstock.worker":
    raise ImportError(f"import penstock.worker, not {__name__}: nothing is to be loaded twice")
