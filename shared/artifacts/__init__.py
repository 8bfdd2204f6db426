"""Models' files: fetched by a child process, kept in a cache that processes of a host share.

Imports contracts and `process`. Never loads a model.
"""
