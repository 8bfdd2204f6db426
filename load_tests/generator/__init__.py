"""The load generator, a process of its own: `python -m load_tests.generator PLAN OUTCOMES`.

Imports `load_tests.server` and percentiles. Never touches a model, nor what is measured of servers.
"""
