"""Loads on servers, and what they come to: closed and open loops, and two servers in turn.

Imports servers, models, the generator's plans and the report's results. Never touches one server in
particular: what differs between them is behind `load_tests.server`.
"""
