"""Which version a call goes to: the routing table as registry_sync wrote it, and how it is read.

`traffic` chooses and is pure; `feed` follows the store. Canary, shadow and bandit belong here.
Never touches replicas or HTTP.
"""
