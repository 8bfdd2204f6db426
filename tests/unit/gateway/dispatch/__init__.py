"""tests/unit/gateway/dispatch"""
