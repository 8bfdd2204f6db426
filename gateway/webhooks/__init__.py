"""Webhooks: events posted to URLs that clients name, signed by the Standard Webhooks scheme.

`sender` is the shell; what it decides is in `target`, `addresses`, `signing` and `retries`.
"""
