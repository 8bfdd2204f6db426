"""Operators' commands: on a system that runs logs, history, off, retry; tags, keys, doctor.

One module for a command, and what it judges by in one beside it.
"""
