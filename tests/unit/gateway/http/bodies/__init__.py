"""tests/unit/gateway/http/bodies"""
