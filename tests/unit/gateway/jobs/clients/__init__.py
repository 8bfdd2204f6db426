"""tests/unit/gateway/jobs/clients"""
