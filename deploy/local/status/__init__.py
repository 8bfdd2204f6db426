"""`penstock status` and `penstock wait`: what runs, as tables, JSON and an exit status.

Reads the store, or asks a gateway. Changes nothing.
"""
