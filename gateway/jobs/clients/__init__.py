"""What clients may do with jobs: submit, wait, follow, fetch, cancel, retry, forget, list.

Imports the calls of `shared.jobs`. Keeps nothing: the record in the store is the one authority.
Never touches HTTP.
"""
