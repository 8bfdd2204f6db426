"""What a replica does with each call: queue, batch, run, answer, end. Pure: one machine.

Imports messages and contracts. Never touches a clock, a socket, a thread or a model.
"""
