"""MLflow's scoring server and KServe v1: routes, formats, schemas.

A front: imports the inference port, the server and tensors; of `oip`, parameters and schemas.
"""
