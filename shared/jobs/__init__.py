"""Durable async jobs: their record, its life, and the store that keeps them.

Read `record` (what a job is and may become), then docs/jobs.md and `lua/prelude.lua` (how the
store keeps that), then `calls` (what can be asked of it). `store` and `blocking_store` carry calls
there and back, for event loops and for threads.
"""
