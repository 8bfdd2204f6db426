"""tests/unit/deploy/cli"""
