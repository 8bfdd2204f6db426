"""The line between a replica and its job port: messages, their form, and packets. Pure.

Imports `shared.wire`. Both ends import it; it imports neither.
"""
