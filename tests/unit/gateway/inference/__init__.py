"""tests/unit/gateway/inference"""
