"""Contracts between Penstock's services: nothing here is needed by only one of them."""
