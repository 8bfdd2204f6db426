"""tests/unit/shared/artifacts"""
