"""What is measured of our own server, a module for each scenario; `registry` lists them.

Imports measuring, servers, models and the report. Nothing but the command line imports it.
"""
