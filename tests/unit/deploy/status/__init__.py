"""tests/unit/deploy/status"""
