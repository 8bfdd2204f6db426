"""The Open Inference Protocol, with Triton's extensions: routes, format, schemas.

A front: imports the inference port, the server and tensors, and `jobs` for requests that prefer to
become one; nothing of `scoring`.
"""
