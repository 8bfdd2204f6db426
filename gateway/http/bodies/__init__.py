"""Large bodies: counted before anything is made of them, and read by processes of their own.

Imports the formats' contract (`gateway.http.payload`); knows none of them, as
`gateway.http.body_process` hands in what reads them. Never runs a call.
"""
