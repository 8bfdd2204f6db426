"""The node agent: which replica processes run here, and what became of them.

`agent` follows the store, `supervisor` decides (pure), `host` starts and ends processes. Imports
`worker.control`; never touches a model or a call.
"""
