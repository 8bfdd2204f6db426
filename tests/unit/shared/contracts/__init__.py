"""tests/unit/shared/contracts"""
