"""tests/unit/worker/job_port"""
