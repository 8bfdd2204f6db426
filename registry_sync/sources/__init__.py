"""Registries of models: MLflow's, and a folder; each a `RegistrySource`.

All of it blocks, and is called in threads. Imports contracts and how tags are named; decides
nothing.
"""
