"""tests/unit/worker/replica"""
