"""What any process of ours does: clocks, signals, waits, logs, traces, bounds of descriptors.

Imports no other room but contracts. No decision of a service lives here.
"""
