"""tests/unit/worker/environments"""
