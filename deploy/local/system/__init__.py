"""What a local system leaves on the disk and listens on: folders, files, ports, its store.

Imports contracts. Starts no process but the store's.
"""
