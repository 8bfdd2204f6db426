"""tests/unit/worker/control"""
