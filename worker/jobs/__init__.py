"""Jobs in a replica: leased from the job store, run where calls leave room, told back.

worker.replica       the loop; `session` decides what runs, `desk` when more is leased
worker.jobs.port     threads beside it: all that waits for the store or for blobs
worker.jobs.leases   what the port holds, and what it owes the store (pure)
"""
