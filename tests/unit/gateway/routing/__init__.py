"""tests/unit/gateway/routing"""
