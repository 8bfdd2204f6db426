"""tests/unit/gateway/transport"""
