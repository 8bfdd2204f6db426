"""Our own server and the bare one, how they are spoken to, and what their processes say and take.

Imports models and `load_tests.server`. Never measures: `measuring` does.
"""
