"""MLflow's scoring server and KServe v1: routes, formats, schemas.

A front: imports the inference port, the server and tensors; nothing of another front.
"""
