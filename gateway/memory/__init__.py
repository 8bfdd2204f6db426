"""What this gateway holds of requests and answers, its bound, and giving memory back to the system.

Imports `shared` only. Everybody who holds bytes takes a share here first.
"""
