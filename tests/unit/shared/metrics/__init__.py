"""tests/unit/shared/store"""
