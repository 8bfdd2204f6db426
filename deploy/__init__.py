"""Ways to run Penstock; `penstock.deploy.local` runs all of it on one machine."""

if __name__ != "penstock.deploy":
    raise ImportError(f"import penstock.deploy, not {__name__}: nothing is to be loaded twice")
