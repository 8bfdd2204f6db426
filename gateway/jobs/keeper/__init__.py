"""What one gateway at a time does for all jobs: expire, collect, move, and tell webhooks.

Imports the calls of `shared.jobs` and `gateway.webhooks`. Never touches a client's request.
"""
