"""Jobs in a replica: leased from the job store, run where calls leave room, told back.

penstock.worker.replica.loop            the loop; `session` decides what runs, `desk` when more is
leased penstock.worker.jobs.side          the loop's side: between session, desk and the line to the
port penstock.worker.job_port.__main__  a process beside it: all that waits for the store or for
blobs penstock.worker.job_port.port          what it does there; `leases`: what it holds, and owes
the store (pure)
"""
