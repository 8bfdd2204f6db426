"""A port of its own for a process's metrics, served from a thread of its own.

Collectors are therefore read while the event loop works: they hand out copies that the interpreter
makes in one step (of a dict, of a list), or snapshots that the loop publishes and never changes.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from penstock.shared.contracts.addresses import authority_of
from penstock.shared.process.build_info import BuildInfoCollector


def process_registry() -> CollectorRegistry:
    """A registry with what every process exposes of itself."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(BuildInfoCollector())
    return registry


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> int:
    """Serve a registry until this process ends.

    Args:
        port: 0: a free one; -1: none, nothing is served.

    Returns:
        The port, or 0 if nothing is served.

    Raises:
        OSError: if the port cannot be had; it says which.
    """
    if port < 0:
        return 0
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        where = f"{authority_of(host, port)} ({error.strerror})"
        raise OSError(f"cannot listen on {where}; choose another with --metrics-port") from error
    return int(server.server_port)
