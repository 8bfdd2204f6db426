"""`penstock up`: starts every process on one machine, watches, restarts and ends them.

Imports `system`. Not an orchestrator: it grows no further.
"""
