"""tests/unit/gateway/http/oip"""
