"""tests/unit/shared/wire"""
