"""The Redis-protocol server as our processes see it: connections, keys, state, news.

Imports contracts. Jobs have a room of their own, `shared.jobs`.
"""
