"""The gateway: takes inference requests over HTTP and dispatches them to replicas over ZeroMQ."""

if __name__ != "penstock.gateway":
    raise ImportError(f"import penstock.gateway, not {__name__}: nothing is to be loaded twice")
