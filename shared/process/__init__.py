"""What any process of ours does: clocks, signals, logs, traces, metrics, bounds of descriptors.

Imports no other room but contracts. No decision of a service lives here.
"""
