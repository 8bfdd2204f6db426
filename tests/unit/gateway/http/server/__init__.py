"""tests/unit/gateway/http/server"""
