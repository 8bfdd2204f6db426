"""tests/unit/deploy/up"""
