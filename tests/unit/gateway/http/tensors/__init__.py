"""tests/unit/gateway/http/tensors"""
