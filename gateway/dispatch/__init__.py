"""Which replica gets a call, when, and what follows when it fails. Pure: one synchronous machine.

`dispatch` is its face: calls, answers and losses go in, commands come out. Imports contracts and
messages of `shared`, and `policies`. Never touches a clock, a socket, a task or HTTP.
"""
