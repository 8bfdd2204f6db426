"""Load tests: Penstock and its peers on the same models and load. Start at `README.md`.

Here are the command line, the seam to servers, and what starts processes of ours. Nothing of
Penstock imports this; of Penstock only the client of its job store is imported. All else goes by
HTTP and the command line, so that other checkouts and other servers are measured alike.
"""
