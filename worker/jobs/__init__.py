"""Jobs in a replica: leased from the job store, run where calls leave room, told back.

penstock.worker.replica            the loop; `session` decides what runs, `desk` when more is leased
penstock.worker.jobs.side          the loop's side: between session, desk and the line to the port
penstock.worker.jobs.port_process  a process beside it: all that waits for the store or for blobs
penstock.worker.jobs.port          what it does there; `leases`: what it holds, and owes the store
(pure)
"""
