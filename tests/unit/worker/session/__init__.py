"""tests/unit/worker/session"""
