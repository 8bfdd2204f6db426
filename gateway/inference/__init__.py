"""The port that protocols call: `port` says what an inference is, `service` runs it.

A front, whatever its protocol, imports `port` and `types` and nothing below. Joins dispatch,
routing and transport; never touches HTTP.
"""
