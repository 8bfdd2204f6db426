"""The Open Inference Protocol, with Triton's extensions: routes, format, schemas.

A front: imports the inference port, the server and tensors; nothing of another front. What takes
requests that prefer to become jobs is handed in by `gateway.http.app`.
"""
