"""tests/unit/deploy/system"""
