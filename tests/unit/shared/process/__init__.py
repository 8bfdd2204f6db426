"""tests/unit/shared/process"""
