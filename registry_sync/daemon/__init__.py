"""The daemon's shells: it leads or stands by, looks, asks `plan`, and writes what that says.

Imports `plan` and `sources`. Decides nothing of what is to run.
"""
