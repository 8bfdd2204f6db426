"""Commands for jobs: submit, list, show, follow, retry; a client of a gateway's HTTP API.

Imports nothing of gateways. `job_*` of the API are two sides; tests hold one against the other.
"""
