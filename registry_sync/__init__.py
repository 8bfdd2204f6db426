"""The sync daemon: follows tags in the MLflow registry and plans what runs where."""

if __name__ != "penstock.registry_sync":
    raise ImportError(
        f"import penstock.registry_sync, not {__name__}: nothing is to be loaded twice"
    )
