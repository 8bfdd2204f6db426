"""Jobs at the gateway: what clients ask of them, and what keeps them going."""
