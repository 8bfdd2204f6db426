"""The gateway: takes inference requests over HTTP and dispatches them to replicas over ZeroMQ."""
