"""tests/unit/gateway/jobs/keeper"""
