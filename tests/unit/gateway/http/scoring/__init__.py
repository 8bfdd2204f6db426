"""tests/unit/gateway/http/scoring"""
