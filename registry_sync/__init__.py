"""The sync daemon: follows tags in the MLflow registry and plans what runs where."""
