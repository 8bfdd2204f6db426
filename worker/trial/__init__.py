"""Finds out, as a model loads, whether its requests may share executions."""
