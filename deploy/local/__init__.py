"""`penstock up`: every process on one machine, and the command line."""
