"""tests/unit/worker/job_line"""
