"""Jobs in a replica: leased from the job store, run where calls leave room, told back.

worker.replica.loop         the loop; `session` decides what runs, `desk` when more is leased
worker.jobs.side            the loop's side: between session, desk and the line to the port
worker.job_port.__main__    a process beside it: all that waits for the store or for blobs
worker.job_port.port        what it does there; `leases`: what it holds, and owes (pure)
"""
