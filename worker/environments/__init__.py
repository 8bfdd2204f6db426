"""Python environments of models' own: recipes, builds in a child process, and the cache.

Imports nothing of replicas. What is built runs `worker.replica`.
"""
