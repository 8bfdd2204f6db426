"""What a run found out, as plain data, and written down: JSON, Markdown, plots.

Imports nothing of the load tests but its neighbours. Never touches a server.
"""
