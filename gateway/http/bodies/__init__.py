"""Large bodies: counted before anything is made of them, and read by processes of their own.

Imports the formats' contract (`gateway.http.payload`). Never runs a call.
"""
