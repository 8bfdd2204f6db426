"""Models that are served, made on the spot, and their right answers: each alone, without a server.

Imports `load_tests.server` and percentiles. Never starts a process.
"""
