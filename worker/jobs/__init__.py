"""Jobs in a replica: leased, executed, and committed."""
