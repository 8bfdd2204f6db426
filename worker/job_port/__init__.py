"""The process beside a replica that leases jobs and commits their results.

Imports the calls of `shared.jobs` and `worker.job_line`. Never touches a model.
"""
