"""tests/unit/worker/runtimes"""
