"""The line between an agent and its replica processes: messages, and both ends.

Imports contracts only. Neither end decides anything.
"""
