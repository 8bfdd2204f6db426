"""tests/unit/gateway/clients"""
