"""tests/unit/deploy/demo"""
