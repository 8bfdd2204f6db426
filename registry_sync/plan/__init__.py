"""What is to run where, from what was seen: tags, roles, placement, routes, statuses. Pure.

`reconcile.plan` is its face: a `World` goes in, a `Plan` comes out. Never touches MLflow, a clock
or the store.
"""
