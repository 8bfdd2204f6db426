"""What our processes agree on: documents of the store, errors, names, addresses, interfaces.

Imports nothing of ours but its neighbours. Every other room may import it.
"""
