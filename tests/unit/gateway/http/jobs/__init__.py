"""tests/unit/gateway/http/jobs"""
