"""tests/unit/gateway/memory"""
