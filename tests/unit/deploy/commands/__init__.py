"""tests/unit/deploy/commands"""
