"""tests/unit/worker/agent"""
