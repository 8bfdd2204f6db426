"""Load tests: Penstock and its peers on the same models and load. Start at `README.md`."""
