"""tests/unit/deploy/jobs"""
