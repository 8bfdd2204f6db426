"""Messages between this gateway and replicas, over ZeroMQ: one socket, its peers and its keys.

Imports `shared.wire` and what dispatch commands. Decides nothing; never touches HTTP or the store.
"""
