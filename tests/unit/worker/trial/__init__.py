"""tests/unit/worker/trial"""
