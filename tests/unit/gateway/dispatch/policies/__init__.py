"""tests/unit/gateway/dispatch/policies"""
