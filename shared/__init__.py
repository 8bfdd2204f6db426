"""Contracts between Penstock's services: nothing here is needed by only one of them."""

if __name__ != "penstock.shared":
    raise ImportError(f"import penstock.shared, not {__name__}: nothing is to be loaded twice")
